"""What rows were before: the change log, tables as of a run, examples of a dry run."""
