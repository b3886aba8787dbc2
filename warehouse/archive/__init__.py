"""The archive: Delta tables of every captured batch, and of what batches cannot give back, below the lake."""
