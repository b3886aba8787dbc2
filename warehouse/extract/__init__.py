"""Extract from a source database: what changed since the last published run, and the verification of every row."""
