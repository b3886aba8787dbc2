"""Capture: what changed in a source since the last published run, and proof that nothing was missed."""
