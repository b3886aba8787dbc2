"""The warehouse as a plain library: capture, load, prove, explain."""
