"""`dwh explain`: show where a row came from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json

if TYPE_CHECKING:
    from warehouse.explain.node import Node
    from warehouse.weblogs.explain import Explanation

WEBLOG = ("weblog", "fact_weblog", "dwh.fact_weblog", "mart.weblog")


def explain(
    table: Annotated[
        str, typer.Argument(help="An entity (customer, order_item), a mirror (raw.shop_product), or weblog.")
    ],
    key: Annotated[
        list[str],
        typer.Argument(help="Key of the row in its source: one value for each column; for weblog FILE:LINE."),
    ],
    source: Annotated[
        str | None, typer.Option(help="Only this source; default: all captured sources.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where a row came from: its dimension versions and why those, mirror rows, source rows, runs and rules.

    For a web-log request: its raw line, file, offset, keys, country and why that one.

    Examples: `dwh explain customer 7`, `dwh explain order_item 17 1`, `dwh explain weblog access.log:17 --json`
    """
    from flows.databases import with_urls
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.errors import SettingsError
    from warehouse.explain.explain import explain as explain_row
    from warehouse.explain.sources import captured_sources, readers_of
    from warehouse.settings import Settings

    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True, application_name="dwh explain") as connection:
        if table in WEBLOG:
            from warehouse.weblogs.explain import explain as explain_weblog

            if len(key) != 1:
                raise SettingsError(
                    "The key of a web-log line is FILE:LINE.",
                    hint="For example `dwh explain weblog 3:17` or `dwh explain weblog access.log:17`.",
                )
            show_weblog(explain_weblog(connection, settings, key[0]), as_json)
            return
        sources = captured_sources(connection, settings, source)
        with readers_of(settings, sources) as readers:
            nodes = explain_row(connection, sources, table, key, readers=readers)
    show_tree(nodes, as_json)


def show_tree(nodes: "Sequence[Node]", as_json: bool) -> None:
    """Print explanations as JSON, or as trees in which each node shows what it was made from."""
    from rich.markup import escape
    from rich.table import Table
    from rich.tree import Tree

    from cli.output import format_value, out, show_json
    from warehouse.errors import visible

    if as_json:
        show_json(nodes)
        return

    def grow(node: "Node", tree: Tree) -> None:
        if node.facts:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim")
            grid.add_column(overflow="fold")
            for name, value in node.facts.items():
                grid.add_row(escape(visible(name)), escape(format_value(value)))
            tree.add(grid)
        for child in node.children:
            grow(child, tree.add(f"[bold]{escape(visible(child.title))}[/]"))

    for node in nodes:
        tree = Tree(f"[bold]{escape(visible(node.title))}[/]")
        grow(node, tree)
        out.print(tree)


def show_weblog(explanation: "Explanation", as_json: bool) -> None:
    """Print what is known of a web-log line; fails if its file is gone or has changed."""
    from cli.output import show_json, show_line, show_table
    from warehouse.files.lake import LakeError

    if as_json:
        show_json(explanation)
    else:
        facts = {
            "file": f"{explanation.path} (file {explanation.file_id})",
            "line": explanation.line_number,
            "byte offset": explanation.byte_offset,
            "state": explanation.state,
        }
        show_table(
            f"Line {explanation.line_number} of {explanation.path}",
            [{"what": name, "value": str(value)} for name, value in facts.items() if value is not None],
        )
        if explanation.raw_line is not None:
            show_line(explanation.raw_line)
        for title, row in (
            ("Row", explanation.row),
            ("Quarantine", explanation.quarantine),
            ("Run", explanation.run),
        ):
            if row:
                show_table(title, [{"column": name, "value": value} for name, value in row.items()])
        if explanation.country_reason:
            show_line(explanation.country_reason)
    if explanation.fault:
        raise LakeError(
            explanation.fault, hint="What is shown above comes from the warehouse and does not need the file."
        )
