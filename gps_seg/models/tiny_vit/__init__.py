"""LiteMedSAM's image encoder, TinyViT, computed another way: same parameters, names and results, less time and memory."""
