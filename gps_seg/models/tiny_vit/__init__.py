"""LiteMedSAM's image encoder, TinyViT, run lean: same parameters and results as the packaged one, half the time, a third of the memory."""
