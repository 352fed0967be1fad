"""What each command does, a file each; the command line only parses and calls."""
