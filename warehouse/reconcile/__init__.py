"""Reconcile: every layer compared with what the layer below makes of it, and mended where it differs."""
