"""``gps-seg models``: what comes with the package, what its cards say, whether they are true, and how one is made."""
