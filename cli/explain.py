"""`dwh explain`: where a row came from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from warehouse.explain.node import Node
    from warehouse.weblogs.explain import Explanation

WEBLOG = ("weblog", "fact_weblog", "dwh.fact_weblog", "mart.weblog")


def explain(
    table: Annotated[
        str, typer.Argument(help="What it is: customer, order_item, a mirror (raw.shop_product), or weblog.")
    ],
    key: Annotated[
        list[str],
        typer.Argument(help="Key of the row in its source, as many values as it has; of web logs FILE:LINE."),
    ],
    source: Annotated[
        str | None, typer.Option(help="Only this source; unset: all that were captured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
) -> None:
    """Show where a row came from: its versions and why, mirror rows, source, runs, and the rules that judged it.

    Of a web log request: its raw line, file, offset, keys, country and why.

    Examples: `dwh explain customer 7`, `dwh explain order_item 17 1`, `dwh explain weblog access.log:17 --json`
    """
    from flows.databases import located
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.errors import SettingsError
    from warehouse.explain.explain import explain as explain_row
    from warehouse.explain.sources import captured_sources, readers_of
    from warehouse.settings import Settings

    settings = located(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True, application_name="dwh explain") as connection:
        if table in WEBLOG:
            from warehouse.weblogs.explain import explain as explain_weblog

            if len(key) != 1:
                raise SettingsError(
                    "A line of a web log has one key: FILE:LINE.", hint="As 3:17 or access.log:17."
                )
            show_weblog(explain_weblog(connection, settings, key[0]), as_json)
            return
        sources = captured_sources(connection, settings.source, source)
        with readers_of(settings, sources) as readers:
            nodes = explain_row(connection, sources, table, key, readers=readers)
    show_tree(nodes, as_json)


def show_tree(nodes: "Sequence[Node]", as_json: bool) -> None:
    """Print explanations: as JSON, or as trees in which each thing shows what it rests on."""
    from rich.markup import escape
    from rich.table import Table
    from rich.tree import Tree

    from cli.output import out, show_json, told

    if as_json:
        show_json(nodes)
        return

    def grown(node: "Node", tree: Tree) -> None:
        if node.facts:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim")
            grid.add_column(overflow="fold")
            for name, value in node.facts.items():
                grid.add_row(escape(name), escape(told(value)))
            tree.add(grid)
        for child in node.children:
            grown(child, tree.add(f"[bold]{escape(child.title)}[/]"))

    for node in nodes:
        tree = Tree(f"[bold]{escape(node.title)}[/]")
        grown(node, tree)
        out.print(tree)


def show_weblog(told: "Explanation", as_json: bool) -> None:
    """Print what is known of a line of a web log; fails where its file is gone or changed."""
    from cli.output import out, show_json, show_table
    from warehouse.files.lake import LakeError

    if as_json:
        show_json(told)
    else:
        facts = {
            "file": f"{told.path} (file {told.file_id})",
            "line": told.line_number,
            "byte offset": told.byte_offset,
            "state": told.state,
        }
        show_table(
            f"Line {told.line_number} of {told.path}",
            [{"what": name, "value": str(value)} for name, value in facts.items() if value is not None],
        )
        if told.raw_line is not None:
            out.print(told.raw_line + "\n", markup=False, soft_wrap=True)
        for title, row in (("Row", told.row), ("Quarantine", told.quarantine), ("Run", told.run)):
            if row:
                show_table(title, [{"column": name, "value": value} for name, value in row.items()])
        if told.country_reason:
            out.print(told.country_reason + "\n", markup=False, soft_wrap=True)
    if told.fault:
        raise LakeError(
            told.fault, hint="What the warehouse knows of the line is shown above; it needs no file."
        )
