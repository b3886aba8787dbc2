"""Flows killed anywhere, in small; `make fault-kill` does it at every point and as often as one likes."""

import json
import random
import signal
from dataclasses import replace
from itertools import product

import pytest

from tests.faults import sabotage
from tests.faults.killing.__main__ import RESULT
from tests.faults.killing.flows import FLOWS, LIVE, REBUILD, SHOP, WEBLOGS
from tests.faults.killing.harness import Kill, plan, run
from tests.faults.killing.points import AFTER, BEFORE, CLIENT, VICTIMS, Point, Strike
from tests.faults.killing.world import World

# The first session stages, the second publishes.
BEFORE_PUBLISHING = Kill(
    SHOP, CLIENT, Point("warehouse.runs.audit.Run.connect: commit", 2, BEFORE), 0.0, retries=False
)


def test_next_run_makes_good_whatever_was_killed(world: World) -> None:
    # A load of web logs is killed below; feeds, exports and the rest take longer than all of this.
    flows = [SHOP, LIVE, REBUILD]
    steps = {flow: world.undisturbed(flow).steps for flow in flows}
    _, second, *others = plan(steps, len(flows), random.Random(1))
    # Whether one of so few leaves something undone is chance; the first does. The second comes at a random time.
    result = run([world], 0, orders=[BEFORE_PUBLISHING, replace(second, point=None), *others])
    assert result.complaints == []
    assert sorted(key[:2] for key in result.landed) == sorted(zip(flows, VICTIMS, strict=True))
    assert result.left_undone.total() > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_next_run_makes_good_after_every_kind_of_kill(world: World) -> None:
    kills = len(FLOWS) * len(VICTIMS)
    result = run([world], kills)
    assert (result.complaints, result.kills) == ([], kills)
    assert {key[:2] for key in result.landed} == set(product(FLOWS, VICTIMS))


def test_kept_result_has_kills_of_every_flow() -> None:
    # A flow that the harness has learned to kill since is missing in a result from before.
    kept = json.loads(RESULT.read_text())
    killed = {(flow, landed.split(", ")[0]) for flow, figures in kept.items() for landed in figures["kills"]}
    assert killed == set(product(FLOWS, VICTIMS))
    assert {flow: figures["complaints"] for flow, figures in kept.items() if figures["complaints"]} == {}


def test_flow_killed_again_and_again_gets_there(world: World) -> None:
    undisturbed, place = world.undisturbed(WEBLOGS), world.place(WEBLOGS)
    commits = [step for step in undisturbed.steps if step.endswith("commit")]
    killed = 0
    for step in commits[:: len(commits) // 4 or 1]:
        process = place.start(WEBLOGS, Strike(Point(step, 1, AFTER), CLIENT, world.postgres.data))
        # What an earlier one has committed need not be done again.
        killed += process.end() == -signal.SIGKILL
        place.wait_for_silence()
    assert killed > 1
    assert place.start(WEBLOGS).end() == 0
    assert place.content(WEBLOGS) == undisturbed.after
    statuses = [status for (status,) in place.rows("select status from audit.run order by run_id")]
    assert statuses.count("crashed") > 1 and "running" not in statuses


@pytest.mark.slow
def test_watermark_that_is_committed_early_is_found_out(world: World) -> None:
    result = run([world], 1, orders=[BEFORE_PUBLISHING], sabotage=(sabotage.move_watermarks_early,))
    assert any("left a part" in what for _, what in result.complaints)
    assert any("did not make good" in what for _, what in result.complaints)
