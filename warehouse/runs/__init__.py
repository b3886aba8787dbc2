"""Runs: audit trail, status, resume, watchdog, alerts."""
