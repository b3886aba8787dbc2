"""Log files: the landing folder, claims of loaders, reading in blocks, and checkpoints."""
