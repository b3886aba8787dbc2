"""What the fault tests share: one server to be killed, with a shop, a lake and a warehouse."""

from collections.abc import Iterator

import pytest

from tests.faults.killing.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world for all tests of this process: whoever takes a place in it lets the server run."""
    with World(tmp_path_factory.mktemp("faults") / "a world") as made:
        yield made
