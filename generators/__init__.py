"""Synthetic input: seeded, reproducible, and ignorant of the warehouse."""
