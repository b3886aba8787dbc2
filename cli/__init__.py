"""The dwh command line."""
