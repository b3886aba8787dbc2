"""Names of PostgreSQL's types, as format_type writes them."""

import re


def without_modifier(kind: str) -> str:
    """Strip length and precision from a type: timestamp(3)[] becomes timestamp[]."""
    return re.sub(r"\(.*?\)", "", kind)
