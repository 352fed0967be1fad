"""Runs that travel by the Hugging Face Hub: the card in every run folder, and ``gps-seg push``."""
