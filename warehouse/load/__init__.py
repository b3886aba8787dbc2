"""Publish: everything that a run brings, in one transaction, or nothing of it."""
