"""Pretrained models: SAM and LiteMedSAM, built from well-kept packages and loaded strictly."""
