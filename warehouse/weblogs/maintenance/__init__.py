"""Changes to loaded web logs: retention, re-classification, reload, delete."""
