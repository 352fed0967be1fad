"""From what a user gives to pixels; nothing is believed."""
