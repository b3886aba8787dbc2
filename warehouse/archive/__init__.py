"""The archive: Delta tables below the lake with every captured batch, dimensions, quarantine and the audit trail."""
