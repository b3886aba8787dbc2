"""Contracts, read: which checks are about rows, which about the batch, and which do not apply to a source."""

from pathlib import Path

import pytest

from warehouse.errors import DeclarationError
from warehouse.model.contracts import Contract, read_contract
from warehouse.model.star import TARGETS, Dimension, Fact

HEAD = "dataset: warehouse/dwh/staging/conformed_thing\n"


def contract(folder: Path, text: str, *lacks: str) -> Contract:
    (folder / "thing.yml").write_text(HEAD + text)
    return read_contract("thing", frozenset(lacks), folder=folder)


def test_missing_contract_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError) as error:
        read_contract("thing", folder=tmp_path)
    assert error.value.exit_code == 2
    assert error.value.what == f"There is no data contract for thing: {tmp_path / 'thing.yml'} is missing."


WARNING = "checks:\n  - row_count: {threshold: {level: warn}}\n"
FAILING_TOO = "checks:\n  - row_count: {threshold: {level: warn, additional: {level: fail}}}\n"


@pytest.mark.parametrize("text", ["", "columns:\n  - name: price\n", "columns: []\nchecks: []\n", WARNING])
def test_contract_without_a_rule_at_level_fail_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DeclarationError, match="The data contract of thing is empty") as error:
        contract(tmp_path, text)
    assert error.value.exit_code == 2


def test_rules_at_level_fail_count_though_they_warn_too_or_do_not_apply(tmp_path: Path) -> None:
    assert contract(tmp_path, FAILING_TOO).row_rules == ()
    key = "columns:\n  - name: price\n    checks:\n      - missing:\n"
    assert [rule.name for rule in contract(tmp_path, key + WARNING, "price").not_applicable] == [
        "price is missing"
    ]


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_empty_file_is_called_empty(tmp_path: Path, text: str) -> None:
    file = tmp_path / "thing.yml"
    file.write_text(text)
    with pytest.raises(DeclarationError) as error:
        read_contract("thing", folder=tmp_path)
    assert error.value.what == f"{file} is empty: it has no rules."


@pytest.mark.parametrize(
    ("entity", "batch", "names"),
    [
        ("thing", "conformed_thing", "warehouse/dwh/staging/conformed_other"),
        ("thing", "conformed_thing", "warehouse/dwh/public/conformed_thing"),
        ("thing", "conformed_thing", "staging/conformed_thing/staging/thing"),
        ("weblog", "weblog_file", "warehouse/dwh/staging/conformed_weblog"),
    ],
)
def test_contract_about_another_batch_is_an_error(
    tmp_path: Path, entity: str, batch: str, names: str
) -> None:
    file = tmp_path / f"{entity}.yml"
    file.write_text(f"dataset: {names}\nchecks:\n  - row_count:\n")
    with pytest.raises(DeclarationError) as error:
        read_contract(entity, folder=tmp_path)
    assert error.value.what == (
        f"{file} is about another batch: its dataset is {names}, not warehouse/dwh/staging/{batch}."
    )
    file.write_text(f"dataset: warehouse/mine/staging/{batch}\nchecks:\n  - row_count:\n")
    assert read_contract(entity, folder=tmp_path).entity == entity


def test_contract_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "thing.yml").write_bytes(b"dataset: caf\xe9\n")
    with pytest.raises(DeclarationError, match="is not YAML"):
        read_contract("thing", folder=tmp_path)
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(DeclarationError, match="cannot be read: Permission denied"):
        read_contract("thing", folder=tmp_path)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.entity)
def test_every_target_of_the_star_has_a_contract_with_a_rule_for_each_key_column(
    target: Dimension | Fact,
) -> None:
    rules = read_contract(target.entity).row_rules
    assert {rule.column for rule in rules if rule.kind == "missing"} >= set(target.natural_key)


@pytest.mark.parametrize(
    ("check", "breaks"),
    [
        ("missing:", '"price" is null'),
        ("missing: {name: no price}", '"price" is null'),
        ("failed_rows: {name: cheap, expression: price < 1}", "price < 1"),
        ("failed_rows: {name: cheap, expression: price < 1, threshold: {level: fail}}", "price < 1"),
        ("failed_rows: {name: cheap, expression: price < 1, threshold: {level: warn}}", None),
        (
            "failed_rows: {name: cheap, expression: price < 1, threshold: {metric: percent, must_be_less_than: 5}}",
            None,
        ),
        ("failed_rows: {name: cheap, query: select 1}", None),
        ("missing: {threshold: {level: warn}}", None),
        ("missing: {threshold: {must_be_less_than: 3}}", None),
        ("invalid: {valid_values: [1]}", None),
        ("aggregate: {function: avg, threshold: {must_be_greater_than: 3}}", None),
    ],
)
def test_row_rules_are_strict_conditions_on_one_row(tmp_path: Path, check: str, breaks: str | None) -> None:
    found = contract(
        tmp_path,
        f"columns:\n  - name: price\n    checks:\n      - {check}\nchecks:\n  - row_count:\n",
    )
    assert [rule.broken_if for rule in found.row_rules] == ([breaks] if breaks else [])
    assert found.not_applicable == ()


def test_dataset_checks_of_rows_and_of_the_batch(tmp_path: Path) -> None:
    found = contract(
        tmp_path,
        "checks:\n  - failed_rows: {name: dear, expression: price > 9}\n"
        "  - duplicate: {columns: [id]}\n  - row_count:\n",
    )
    assert [(rule.name, rule.column, rule.broken_if) for rule in found.row_rules] == [
        ("dear", None, "price > 9")
    ]
    assert len(found.document["checks"]) == 3


DECLARED = """columns:
  - name: price
    checks:
      - missing:
      - failed_rows: {name: under cost, expression: price < Cost}
  - name: name
    checks:
      - missing:
checks:
  - failed_rows: {name: the name of the price, expression: "status = 'price' and quantity > 1"}
  - failed_rows: {name: costs, expression: cost < 0, threshold: {level: warn}}
  - duplicate: {columns: [id, cost]}
"""


@pytest.mark.parametrize(
    ("lacks", "left_out"),
    [
        ((), []),
        (("cost",), ["under cost", "costs", "duplicate"]),
        (("price",), ["price is missing", "under cost"]),
        (("name",), ["name is missing"]),
        (("quantity", "nothing"), ["the name of the price"]),
        (("level", "expression", "columns"), []),
    ],
)
def test_checks_that_evaluate_a_column_which_the_source_lacks_are_left_out(
    tmp_path: Path, lacks: tuple[str, ...], left_out: list[str]
) -> None:
    found = contract(tmp_path, DECLARED, *lacks)
    assert [rule.name for rule in found.not_applicable] == left_out
    names = ["price is missing", "under cost", "name is missing", "the name of the price"]
    assert [rule.name for rule in found.row_rules] == [name for name in names if name not in left_out]
    kept = sum(len(column.get("checks", ())) for column in found.document["columns"]) + len(
        found.document.get("checks", ())
    )
    assert kept == 6 - len(left_out)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("columns:\n  - price\n", "is not a data contract"),
        ("columns:\n  - checks: []\n", "is not a data contract: 'name'"),
        ("checks:\n  - missing\n", "is not a data contract"),
        ("checks:\n  - {missing: , duplicate: }\n", "is not a data contract"),
        ("checks: 3\n", "is not a data contract"),
        ("checks:\n  - failed_rows: {expression: price < 1}\n", "a failed_rows check has no name: price < 1"),
        (
            "checks:\n  - failed_rows: {name: bad, expression: price < 1}\n"
            "  - failed_rows: {name: bad, expression: cost < 1}\n",
            "two checks are called 'bad'",
        ),
        (": :\n", "is not YAML"),
    ],
)
def test_wrong_contract_is_named_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DeclarationError) as error:
        contract(tmp_path, text)
    assert told in error.value.what and str(tmp_path / "thing.yml") in error.value.what


def test_relaxed_rules_refuse_no_row_and_are_still_counted(tmp_path: Path) -> None:
    contract(tmp_path, DECLARED)
    reason = "Prices are entered later."
    found = read_contract("thing", frozenset(), {"price is missing": reason, "under cost": reason}, tmp_path)
    assert [rule.name for rule in found.row_rules] == ["name is missing", "the name of the price"]
    assert found.relaxed == {"price is missing": reason, "under cost": reason}
    assert found.document == contract(tmp_path, DECLARED).document


def test_relaxed_rule_that_the_contract_does_not_have_is_an_error(tmp_path: Path) -> None:
    contract(tmp_path, DECLARED)
    with pytest.raises(DeclarationError) as error:
        read_contract("thing", frozenset(), {"below cost": "Gifts have no price."}, tmp_path)
    assert error.value.what == f"A rule that {tmp_path / 'thing.yml'} does not have is relaxed: 'below cost'."
    assert error.value.hint == "Did you mean 'under cost'?"
