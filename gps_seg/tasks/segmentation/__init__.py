"""Polyp segmentation with a SAM: data sets, losses, predictions and their report."""
