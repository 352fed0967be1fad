"""Every picture that matplotlib draws; nothing else imports it, and these only inside functions: it is slow to load."""
