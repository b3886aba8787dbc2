"""What the engine's tests share: a shop and a warehouse of one test alone, and declarations of the shop."""

import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack.postgres import EmbeddedPostgres
from tests import shop_day
from tests.pipeline import PACKAGED, Pipeline
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Source

Declare = Callable[..., Source]
CopyOf = Callable[[Callable[[Pipeline], object]], Pipeline]


@pytest.fixture
def pipeline(shop_url: str, warehouse_url: str) -> Iterator[Pipeline]:
    """An empty shop and an empty warehouse."""
    made = Pipeline(shop_url, warehouse_url)
    yield made
    made.close()


@pytest.fixture
def shop(pipeline: Pipeline) -> Pipeline:
    """A shop with one row of master data each, dated 2024-01-01, and an empty warehouse."""
    pipeline.open_shop()
    return pipeline


@pytest.fixture
def copy_of(
    postgres: EmbeddedPostgres,
    template: Callable[..., str],
    database: Callable[[str], str],
    shop_template: str,
    warehouse_template: str,
) -> Iterator[CopyOf]:
    """Hands out a shop like `shop`, and its warehouse, after what a function has done with them.

    It is called once per test run: each test gets copies of both databases, and the runs that were made.
    """
    made: list[Pipeline] = []

    def copy(happen: Callable[[Pipeline], object]) -> Pipeline:
        place = f"{happen.__module__}.{happen.__qualname__}"
        name = f"template_{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        runs = postgres.folder / f"{name}.runs"

        def fill(shop_url: str) -> None:
            template(f"{name}_warehouse", lambda url: fill_both(shop_url, url), warehouse_template)

        def fill_both(shop_url: str, warehouse_url: str) -> None:
            pipeline = Pipeline(shop_url, warehouse_url)
            pipeline.open_shop()
            happen(pipeline)
            runs.write_bytes(pickle.dumps(pipeline.runs))
            pipeline.close()

        urls = [database(template(f"{name}_shop", fill, shop_template)), database(f"{name}_warehouse")]
        made.append(Pipeline(*urls, runs=pickle.loads(runs.read_bytes())))
        made[-1].adopt()
        return made[-1]

    yield copy
    for pipeline in made:
        pipeline.close()


@pytest.fixture
def captured(copy_of: CopyOf) -> Pipeline:
    """A shop with one row of master data each, dated 2024-01-01, which was captured once."""
    return copy_of(Pipeline.capture)


def sell(shop: Pipeline) -> None:
    """One order of one line, captured."""
    shop.order(1, "2024-03-10")
    shop.capture()


@pytest.fixture
def sale(copy_of: CopyOf) -> Pipeline:
    """The same with one order of one line, captured with it."""
    return copy_of(sell)


@pytest.fixture
def sold(database: Callable[[str], str], sale_templates: tuple[str, str]) -> Iterator[Pipeline]:
    """The shop with one sale, and a warehouse that has loaded it and shows it in its marts: copies of loaded ones."""
    made = Pipeline(*map(database, sale_templates))
    made.adopt()
    yield made
    made.close()


@pytest.fixture
def busy_shop(pipeline: Pipeline) -> Pipeline:
    """A shop of five customers and four orders, one of them for quarantine, and an empty warehouse."""
    shop_day.open_shop(pipeline)
    return pipeline


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """Declares source shop as it is packaged, but with texts replaced: file of the source, old text, new text."""
    folder = tmp_path / "shop"

    def declare(*changes: tuple[str, str, str]) -> Source:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PACKAGED / "shop", folder)
        for name, old, new in changes:
            text = (folder / name).read_text()
            assert old in text, (name, old)
            (folder / name).write_text(text.replace(old, new))
        return read_declaration(folder)

    return declare
