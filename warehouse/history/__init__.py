"""What rows were: change log, tables as of a run, undo, dry run."""
