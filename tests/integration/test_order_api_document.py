"""Whatever the OpenAPI document allows and forbids, drawn by schemathesis: the API answers as the document says."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from stack.postgres import EmbeddedPostgres
from tests.order_api import OrderApi, order_api, shop_copy

# A body can also be too large.
CHECKS = {
    "checks": {"negative_data_rejection": {"expected-statuses": ["400", "401", "404", "405", "413", "415"]}}
}
UNKNOWN = re.compile(
    "There is no (customer|product|payment method) |No distribution center has |Product . has no price "
    "|It is not a cursor |Product [0-9]+ is there more than once|"
    # To the tool, 1 and 1.0 are two.
    "A line is there more than once|"
    # It takes large numbers of the document for floating point numbers.
    "Input should be less than or equal to 9223372036854775807|"
    "One of them is no time |The amount is larger |Order . has no line "
)


@pytest.fixture(scope="module")
def api(postgres: EmbeddedPostgres, shop_template: str) -> Iterator[OrderApi]:
    with shop_copy(postgres, shop_template) as url, order_api(url) as running:
        yield running


def check_every_operation(api: OrderApi, examples: int) -> int:
    """Draw examples for each operation, valid and not, and check each answer; how many answers there were."""
    document = api.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(CHECKS))
    schema.config.update(base_url=api.url)
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]
    return sum(check(operation, mode, examples) for operation in operations for mode in GenerationMode)


def check(operation: Any, mode: GenerationMode, examples: int) -> int:
    """Draw examples for an operation; how many answers there were."""
    calls = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answers_as_documented(case: "schemathesis.Case[Any]") -> None:
        nonlocal calls
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        if mode is GenerationMode.POSITIVE and answer.status_code == 400:
            # What the document allows may be refused for what the shop has, but for nothing else.
            faults = answer.json()["errors"]
            assert [one for one in faults if not UNKNOWN.match(one["detail"])] == [], case.body
        calls += 1

    # Nothing that has no parameters can be asked for wrongly.
    with suppress(Unsatisfiable):
        answers_as_documented()
    return calls


def test_answers_are_as_the_document_says(api: OrderApi) -> None:
    for number in range(3):
        api.place({"customerId": number + 1, "payment_id": 1, "products": [{"productId": 1, "quantity": 1}]})
    assert check_every_operation(api, 8) > 60


@pytest.mark.slow
def test_thousands_of_answers_are_as_the_document_says(api: OrderApi) -> None:
    assert check_every_operation(api, 1000) > 5000


def test_page_of_the_documentation_loads_nothing_from_elsewhere(api: OrderApi) -> None:
    page = api.http.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert [one for one in loaded if not one.startswith("/")] == []
    assert len(loaded) >= 3
    for one in loaded:
        assert api.http.get(one).status_code == 200, one
    assert api.http.get("/redoc").status_code == 404
