"""The command line `dwh`."""
