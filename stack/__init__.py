"""The local stack: embedded PostgreSQL, Prefect server and worker."""
