"""The star schema, declared once, and what follows from the declaration: documentation and lineage."""
