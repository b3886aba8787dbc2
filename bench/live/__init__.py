"""Benchmark of live loading: seconds from the answer of the order API until the order is in the star."""
