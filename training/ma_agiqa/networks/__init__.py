"""The scorer (paper Fig. 3): ViT features, MANIQA, adaptive fusion, and their fast copy."""
