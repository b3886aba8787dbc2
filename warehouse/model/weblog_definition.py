"""Definition of the web-log lookups: hashes of the traffic rules, and the version of ua-parser, that describe texts."""

import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.model.sql_text import hash_parts

RULES_FILE: Final = Path(__file__).parents[1] / "weblogs" / "reader" / "traffic_rules.toml"
# By lookup table, the parts of the traffic rules that describe its texts.
_RULES: Final = {
    "dwh.dim_request": ("product_parameters", "actions"),
    "dwh.dim_referer": ("hosts", "sites", "aliases"),
}


def define_lookups(rules_file: Path | None = None) -> Mapping[str, Mapping[str, str]]:
    """Return the definition of each lookup table: the hash or version of what describes its texts.

    Raises:
        DeclarationError: the traffic rules cannot be read.
    """
    path = rules_file or RULES_FILE
    try:
        rules = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DeclarationError(
            f"{path} cannot be read: {error}.", hint="Compare it with the one in git."
        ) from None
    return {
        **{
            table: {"traffic_rules.toml": hash_parts([(name, rules.get(name)) for name in names])}
            for table, names in _RULES.items()
        },
        # This package has ua-parser's rules, under its own version.
        "dwh.dim_user_agent": {"ua-parser": version("ua-parser-builtins")},
    }
