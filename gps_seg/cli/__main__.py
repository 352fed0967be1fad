"""``python -m gps_seg.cli``."""

from gps_seg.cli.main import main

main()
