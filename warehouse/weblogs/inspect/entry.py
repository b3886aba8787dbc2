"""An entry of weblogs.toml as text."""

import json

from warehouse.weblogs.formats.declaration import COMBINED, FormatEntry


def format_entry(entry: FormatEntry) -> str:
    """Format an entry as it stands in weblogs.toml."""
    chosen = entry.format
    options = {"preset": COMBINED} if chosen.preset is None and chosen.kind == COMBINED else {}
    options |= {name: value for name, value in chosen.options.items() if name != "json"}
    lines = ["[[formats]]", f"files = {_value(entry.files)}"]
    lines += [f"{name} = {_value(value)}" for name, value in options.items()]
    if chosen.json is not None:
        lines.append("[formats.json]")
        lines += [f"{name} = {_value(places)}" for name, places in chosen.json.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """Format a value in TOML; a tuple of one value as that value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _value(value[0]) if len(value) == 1 else f"[{', '.join(map(_value, value))}]"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Quote a text in TOML; one with double quotes as a literal string, if possible."""
    is_plain = text.isprintable() and "'" not in text
    return f"'{text}'" if '"' in text and is_plain else json.dumps(text)
