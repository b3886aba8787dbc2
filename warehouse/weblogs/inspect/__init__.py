"""Which format a log file is in, and its declaration: `dwh weblogs inspect`."""
