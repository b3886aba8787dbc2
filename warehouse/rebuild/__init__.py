"""Rebuild of the warehouse's tables from the archive, compared with the live ones and put in their place."""
