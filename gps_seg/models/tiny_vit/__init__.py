"""The image encoder of LiteMedSAM and MobileSAM, TinyViT, computed another way: same results, less time and memory."""
