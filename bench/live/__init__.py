"""Freshness of live: from the answer of the order API to the star."""
