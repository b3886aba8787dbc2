"""Queries that documents give to operators and analysts run in a migrated warehouse."""

import re
from pathlib import Path

import psycopg

from warehouse.db.connections import connect

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```sql\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Those whose blocks are not for the warehouse, as DuckDB's and a source's, have tests of their own.
DOCUMENTS = ("history.md", "live.md", "operations.md", "runbook.md")


def queries(document: str) -> list[str]:
    """The select statements of a document; a value that the reader fills in is 1."""
    text = "\n".join(BLOCK.findall((DOCS / document).read_text()))
    statements = (one.strip() for one in re.sub(r"--.*", "", text).replace("…", "1").split(";"))
    return [one for one in statements if one.startswith("select")]


def test_every_query_of_a_document_fits_the_migrated_database(warehouse_url: str) -> None:
    refused = {}
    with connect(warehouse_url, autocommit=True) as connection:
        for document in DOCUMENTS:
            for query in queries(document):
                try:
                    connection.execute(f"prepare query as {query}".encode())
                    connection.execute("deallocate query")
                except psycopg.Error as error:
                    refused[query] = error.diag.message_primary
    assert sum(len(queries(document)) for document in DOCUMENTS) > 12
    assert refused == {}
