"""Live: a long-running process that polls a source, and publishes its changes in small batches as other runs do."""
