"""Rebuild the warehouse's tables from archive and landing files (`dwh rebuild`)."""
