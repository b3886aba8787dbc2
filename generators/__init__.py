"""Generators of synthetic sources: reproducible by seed, and independent of the warehouse's code."""
