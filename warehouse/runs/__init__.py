"""Runs: audit trail, status, resuming, watchdog, alerts."""
