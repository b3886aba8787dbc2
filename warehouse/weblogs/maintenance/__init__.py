"""What changes web logs that are loaded: retention, re-classification, reload, delete."""
