"""What the engine's tests share: a shop and a warehouse of one test alone, and declarations of the shop."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import shop_day
from tests.pipeline import PACKAGED, Pipeline
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Source

Declare = Callable[..., Source]


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
