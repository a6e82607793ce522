"""The embedder: prompt embeddings of mPLUG-Owl2 (paper §3.2), and its answers in words."""
