"""The command line, a file for each family of commands."""

from gps_seg.cli.main import app, main

__all__ = ["app", "main"]
