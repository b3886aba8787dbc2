"""Flows that are started at the same moment, in small; `make fault-starts` starts a hundred."""

import os
import subprocess
import sys
import time

import pytest

from tests.faults import sabotage
from tests.faults.killing.flows import SHOP
from tests.faults.killing.world import World
from tests.faults.starting import FLOWS, start_together
from warehouse.db.connections import connect
from warehouse.db.locks import try_transaction_lock
from warehouse.history.change_log import STAR_LOCK

STARTS = int(os.environ.get("STARTS", "8"))
HOLDER = """
import sys
from warehouse.db.connections import connect
from warehouse.db.locks import transaction_lock
from warehouse.history.change_log import STAR_LOCK

with connect(sys.argv[1]) as connection:
    transaction_lock(connection, STAR_LOCK)
    print("holding", flush=True)
    connection.execute("select pg_sleep(900)")
"""


def test_flows_started_at_the_same_moment_double_nothing(world: World) -> None:
    result = start_together(world, STARTS)
    assert result.complaints == []
    assert sum(result.ended.values()) == STARTS
    # Somebody did the work of each flow, alone or as a step of the day's; the others gave up and said for whom.
    assert all(result.ended[f"{flow}: did it"] for flow in ("ingest-weblogs", "daily-warehouse"))
    assert sum(result.ended[f"{flow}: gave up"] for flow in FLOWS) > 0


@pytest.mark.slow
def test_who_gives_up_and_does_not_say_for_whom_is_found_out(world: World) -> None:
    result = start_together(world, 3, [SHOP], sabotage=(sabotage.forget_holders,))
    assert any("does not say for whom" in complaint for complaint in result.complaints)


@pytest.mark.slow
def test_locks_that_keep_nobody_out_are_found_out(world: World) -> None:
    result = start_together(world, 12, [SHOP], sabotage=(sabotage.share_every_lock,))
    assert result.complaints != []


@pytest.mark.slow
def test_the_same_flow_started_a_hundred_times_is_done_once(world: World) -> None:
    result = start_together(world, 100, [SHOP])
    assert result.complaints == []
    assert result.ended[f"{SHOP}: gave up"] > 50


def test_lock_dies_with_its_holder_in_the_middle_of_a_statement(shop_url: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, shop_url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
    with connect(shop_url) as other:
        assert not try_transaction_lock(other, STAR_LOCK)
        holder.kill()
        holder.wait()
        give_up_at = time.monotonic() + 120
        while not try_transaction_lock(other, STAR_LOCK):
            assert time.monotonic() < give_up_at, "its session goes on for a quarter of an hour"
            time.sleep(0.1)
