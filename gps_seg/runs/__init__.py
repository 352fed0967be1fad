"""One training run: its loop, its device, and the folder it leaves behind."""
