"""Flows: what runs, in which order, with which retries; Prefect's view of the warehouse. No SQL here."""
