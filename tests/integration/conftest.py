"""What the engine's tests share: a shop and a warehouse of one test alone."""

from collections.abc import Iterator

import pytest

from tests import shop_day
from tests.pipeline import Pipeline


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
def busy_shop(pipeline: Pipeline) -> Pipeline:
    """A shop of five customers and four orders, one of them for quarantine, and an empty warehouse."""
    shop_day.open_shop(pipeline)
    return pipeline
