"""Undo: restore what runs changed, in one transaction, from the before-images of the change log."""
