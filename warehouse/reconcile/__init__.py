"""Reconcile: recompute every table from the layer below, compare, and repair what differs."""
