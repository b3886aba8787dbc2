"""Explain: where a row of the warehouse came from, why it is as it is, and who judged it."""
