"""The web server: its door, its routes, its folder."""
