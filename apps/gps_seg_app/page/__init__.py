"""What a user sees: tabs, tools, words."""
