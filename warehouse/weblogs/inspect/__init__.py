"""Detect the format of a log file, and propose its declaration: `dwh weblogs inspect`."""
