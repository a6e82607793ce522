"""Image files: decoding, limits on hostile files, and the two views that the networks take."""
