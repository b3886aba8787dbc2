"""Files of feeds as they land one after the other: versions, refused, unreadable and superseded records, and files that
grow, are renamed, copied or replaced."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tests.integration.test_feeds import an_order
from tests.integration.test_leads import HEADER, LEADS

COMPANIES = "Tax number,Company name,Country,Updated\n"
EDITED = json.dumps(an_order("P-3", {}, {"amount": 7}, customer_name="Edited"))


def land_first(landing: Path) -> None:
    """What each feed finds first."""
    orders = [
        an_order("P-1", {}, {}, {}),
        an_order("P-2", customer_name=None),
        an_order("P-3", customer_name=None),
        an_order("P-4", extra={"gift": True}),
        # Of a customer whom the shop does not have; one that the shop has, too; two versions.
        an_order("P-5", customer_document_number="30111333"),
        an_order("1"),
        an_order("P-6"),
        an_order("P-6", {"amount": 3}),
    ]
    _land(landing / "orders/a.json", orders, "{ broken\n")
    _land(landing / "orders/old.json", [an_order("P-20")])
    _land(landing / "orders/name.json", [an_order("P-30")])
    _land(landing / "leads/leads.csv", text=f"{LEADS},Nobody,,,ar,Toys,Web,2024-03-01\n")
    _land(
        landing / "companies/list.csv",
        text=f"{COMPANIES}30500000015,Second,BR,01/03/2024\n,Nobody,BR,01/03/2024\n30500000023,Third,,01/03/2024\n",
    )


def land_second(landing: Path) -> None:
    """What the run of the orders finds that is undone."""
    orders = [
        an_order("P-1", {"amount": 5}),
        an_order("P-4", {"product_id": None}),
        an_order("P-7", lead_id="L-1"),
        an_order("P-7", {"product_id": None}),
        an_order("P-8", {}, {}),
        an_order("P-20", {"amount": 8}),
    ]
    _land(landing / "orders/b.json", orders, '"broken"\n')


def land_news(landing: Path) -> None:
    """What no warehouse has seen: more of a file, a copy, another name, other contents, later versions."""
    orders = landing / "orders"
    with (orders / "b.json").open("a") as file:
        file.write(
            f"{json.dumps(an_order('P-8', {'amount': 9}))}\n{{ broken, too\n{json.dumps(an_order('P-9'))}\n"
        )
    _land(
        orders / "c.json",
        [an_order("P-9", {"amount": 4}, {}), an_order("P-10", lead_id="L-2"), an_order("P-2")],
    )
    _land(orders / "copy.json", text=(orders / "a.json").read_text())
    _land(orders / "old.json", [an_order("P-21")], "[\n")
    (orders / "name.json").rename(orders / "renamed.json")
    _land(
        landing / "leads/more.csv",
        text=f"{HEADER}L-1,Ana,Acme II,ana@example.com,ar,Tools,Fair,2024-03-02\nL-5,Eve,,,br,Toys,Web,2024-03-02\n"
        "L-6,Nobody,,,,Toys,Web,some day\n",
    )
    _land(
        landing / "companies/more.csv",
        text=f"{COMPANIES}30500000015,Second II,BR,01/05/2024\n30500000031,Fourth,AR,01/05/2024\n30500000049,,AR,\n",
    )


def _land(path: Path, orders: Sequence[object] = (), text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(order) + "\n" for order in orders) + text)
    # Files are read in the order of their times: each is a second younger than the one before.
    number = len([*path.parent.iterdir()])
    os.utime(path, (1_710_000_000 + number,) * 2)
