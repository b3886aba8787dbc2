"""Data contracts: one file per dimension and fact with the rules for its batches, installed with the package."""
