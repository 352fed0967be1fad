"""What the app costs and how it answers, measured."""
