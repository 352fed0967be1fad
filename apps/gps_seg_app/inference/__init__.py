"""Models in memory that answer one picture at a time."""
