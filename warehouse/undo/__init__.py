"""Undo: runs are taken back in one transaction, from the images that the change log keeps."""
