"""Data contracts: one file per dimension and fact, with the rules that its batches must keep.

Packaged, so that every install has them.
"""
