"""Write a new migration from the difference between the tables that the star declares and those of a database."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from warehouse.db.connections import connect
from warehouse.db.schema_version import VERSIONS, ensure_migrated, newest
from warehouse.errors import SettingsError
from warehouse.model.drift import Difference, Shape, find_drift
from warehouse.model.schema import TABLES, create_table

_LINE = 108
_TEMPLATE = '''"""{title}."""

from warehouse.migrations.sql import execute

revision = "{revision}"
down_revision = "{down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
{upgrade}


def downgrade() -> None:
{downgrade}
'''


def write_migration(url: str, title: str, folder: Path = VERSIONS) -> Path:
    """Write the migration that brings a migrated database to the declaration; returns its file, for a person to read.

    Its SQL is written out: what the star declares later does not change it.

    Raises:
        SchemaOutdated: the database is not at the newest revision.
        SettingsError: declaration and database agree, or the title cannot name a file.
    """
    ensure_migrated(url)
    name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    if not name:
        raise SettingsError(f"{title!r} does not name a migration.", hint='Use words, as in "add dim_store".')
    with connect(url) as connection:
        drift = find_drift(connection)
    if not drift:
        raise SettingsError(
            "The database has the tables that the star declares: there is nothing to migrate.",
            hint="Change warehouse/model/star.py first.",
        )
    revision = f"{int(newest()) + 1:04}"
    path = folder / f"{revision}_{name}.py"
    path.write_text(
        _TEMPLATE.format(
            title=title[0].upper() + title[1:],
            revision=revision,
            down_revision=newest(),
            upgrade=_calls(upgrade_statements(drift)),
            downgrade=_calls(downgrade_statements(drift)),
        )
    )
    return path


def upgrade_statements(drift: Sequence[Difference]) -> list[str]:
    """Statements that turn what was found into what is declared."""
    tables = {str(table): table for table in TABLES}
    statements = []
    for table, differences in _by_table(drift):
        if any(one.part.kind == "table" and one.found is None for one in differences):
            statements += create_table(tables[table])
        elif any(one.part.kind == "table" and one.declared is None for one in differences):
            statements.append(f"drop table {table}")
        else:
            statements += _changes([(one, one.found, one.declared) for one in differences])
    return statements


def downgrade_statements(drift: Sequence[Difference]) -> list[str]:
    """Statements that turn what is declared into what was found; a dropped table or its data do not come back."""
    statements = []
    for table, differences in reversed(_by_table(drift)):
        if any(one.part.kind == "table" and one.found is None for one in differences):
            statements.append(f"drop table {table}")
        elif not any(one.part.kind == "table" for one in differences):
            statements += _changes([(one, one.declared, one.found) for one in differences])
    return statements


def _changes(changes: Sequence[tuple[Difference, Shape | None, Shape | None]]) -> list[str]:
    """Constraints and indexes are dropped before columns change, and added after."""
    drops, columns, adds = [], [], []
    for difference, before, after in changes:
        table, (kind, name) = difference.table, difference.part
        if kind == "column":
            columns += _change_column(table, name, before, after)
            continue
        if before is not None:
            drops.append(
                f"drop index {table.partition('.')[0]}.{name}"
                if kind == "index"
                else f"alter table {table} drop constraint {name}"
            )
        if after is not None:
            adds.append(
                re.sub(" ON USING ", f" on {table} using ", after.definition).replace("CREATE", "create", 1)
                if kind == "index"
                else f"alter table {table} add constraint {name} {after.definition}"
            )
    return [*drops, *columns, *adds]


def _change_column(table: str, name: str, before: Shape | None, after: Shape | None) -> list[str]:
    alter = f"alter table {table} alter column {name}"
    if after is None:
        return [f"alter table {table} drop column {name}"]
    if before is None:
        required = " not null" if after.is_required else ""
        default = f" default {after.default}" if after.default is not None else ""
        return [f"alter table {table} add column {name} {after.definition}{required}{default}"]
    statements = []
    if before.definition != after.definition:
        statements.append(f"{alter} type {after.definition} using {name}::{after.definition}")
    if before.default != after.default:
        statements.append(
            f"{alter} drop default" if after.default is None else f"{alter} set default {after.default}"
        )
    if before.is_required != after.is_required:
        statements.append(f"{alter} {'set' if after.is_required else 'drop'} not null")
    return statements


def _by_table(drift: Iterable[Difference]) -> list[tuple[str, list[Difference]]]:
    tables: dict[str, list[Difference]] = {}
    for difference in drift:
        tables.setdefault(difference.table, []).append(difference)
    return list(tables.items())


def _calls(statements: Sequence[str]) -> str:
    return "\n".join(map(_call, statements)) or "    pass"


def _call(statement: str) -> str:
    if "\n" not in statement and len(statement) < _LINE - len('    execute("")') and '"' not in statement:
        return f'    execute("{statement}")'
    indented = statement.replace("\n", "\n        ")
    return f'    execute(\n        """\n        {indented}\n        """\n    )'
