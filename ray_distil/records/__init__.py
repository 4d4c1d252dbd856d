"""Records of others: files, sources, and the shapes of conversations."""
