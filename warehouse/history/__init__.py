"""History of rows: the change log, tables as of a run, examples of the changes in a dry run."""
