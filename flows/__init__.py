"""Prefect flows and tasks: what runs, in which order, with which retries. They contain no SQL."""
