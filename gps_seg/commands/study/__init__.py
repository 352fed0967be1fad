"""``gps-seg study``: claims of the paper, put to finished runs."""
