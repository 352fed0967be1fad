"""Every picture that matplotlib draws; nothing else imports it."""
