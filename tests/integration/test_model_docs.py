"""docs/model.md says what the database is."""

import re
from pathlib import Path

from warehouse.db.connections import connect
from warehouse.model.documentation import render

DOCUMENT = Path(__file__).parents[2] / "docs" / "model.md"


def test_the_model_is_documented_as_it_is(warehouse_url: str, tmp_path: Path) -> None:
    document = render(warehouse_url)
    if document != DOCUMENT.read_text():
        written = tmp_path / DOCUMENT.name
        written.write_text(document)
        raise AssertionError(f"{DOCUMENT} is not current: compare it with {written}, and move that over it.")


def test_the_model_shows_every_table_and_what_refers_to_what(warehouse_url: str) -> None:
    document = render(warehouse_url)
    with connect(warehouse_url) as connection:
        tables = connection.execute(
            """
            select format('### %s.%s', schemaname, tablename) from pg_tables
            where schemaname in ('dwh', 'mart', 'audit', 'staging')
            union all
            select format('### %s.%s', schemaname, viewname) from pg_views
            where schemaname = 'mart' or schemaname = 'audit' and viewname not like '%\\_change'
            """
        ).fetchall()
    assert set(re.findall(r"^### .*", document, re.MULTILINE)) == {heading for (heading,) in tables}
    sales = document[document.index("## Sales") : document.index("## Web log")]
    assert sorted(re.findall(r"(\w+) \|\|--o\{ (\w+) : (\w+)", sales)) == [
        ("dim_company", "fact_order_item", "company_key"),
        ("dim_customer", "fact_order_item", "customer_key"),
        ("dim_date", "fact_order_item", "ordered_date_key"),
        ("dim_date", "fact_order_item", "returned_date_key"),
        ("dim_distribution_center", "fact_order_item", "distribution_center_key"),
        ("dim_payment_method", "fact_order_item", "payment_method_key"),
        ("dim_product", "fact_order_item", "product_key"),
        ("dim_promotion", "fact_order_item", "promotion_key"),
    ]
    assert "Partitioned by `list (country)`." in document
