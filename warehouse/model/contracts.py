"""Read the data contracts of dimensions and facts from checks/<entity>.yml.

Row rules are `missing` and `failed_rows` checks with an expression, at level fail: rows that break one go to
quarantine. Every other check at level fail is a dataset rule, about the whole batch, and stops the run.
"""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any

import yaml

from warehouse.errors import DeclarationError

CHECKS: Traversable = files("checks")
# Staging tables of entities whose batch is not staging.conformed_<entity>.
_BATCHES = {"weblog": "weblog_file"}
_ADD_RULES = "Give it at least a rule for each key column and each column that must not be empty."
# libyaml, if PyYAML was built with it, reads a contract in a tenth of the time.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RowRule:
    """A rule that each row is checked against; the SQL condition `broken_if` is true for rows that break it."""

    name: str
    column: str | None
    kind: str
    broken_if: str


@dataclass(frozen=True)
class Contract:
    """A contract as it applies to one source: the checks that Soda verifies, and the rules that do not apply."""

    entity: str
    document: Mapping[str, Any]
    row_rules: tuple[RowRule, ...]
    not_applicable: tuple[RowRule, ...]
    # Rules that the source relaxes, with the reason: rows that break them are counted and loaded.
    relaxed: Mapping[str, str]


def has_contract(entity: str) -> bool:
    """Return whether there is a contract of this name in checks/."""
    return (CHECKS / f"{entity}.yml").is_file()


def read_contract(
    entity: str,
    unmapped: frozenset[str] = frozenset(),
    relaxed: Mapping[str, str] = MappingProxyType({}),
    folder: Traversable | None = None,
    *,
    batch: str | None = None,
) -> Contract:
    """Read the contract of an entity, without the checks about columns that the source does not map.

    `relaxed` has the names of rules that the source's rows may break, with the reason; `batch` is the staging table
    that the contract is about, by default the entity's conformed one.

    Raises:
        DeclarationError: the file is missing, is no contract or is about another batch; it has no rule at level fail,
            or not all rules that are relaxed.
    """
    path = (folder or CHECKS) / f"{entity}.yml"
    if not path.is_file():
        raise DeclarationError(
            f"There is no data contract for {entity}: {path} is missing.",
            hint="Nothing is loaded without one: restore the file, or install dwh again.",
        )
    try:
        document = _load(path.read_text())
    except OSError as error:
        raise DeclarationError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path} is not YAML: {error}.") from None
    if document is None:
        raise DeclarationError(f"{path} is empty: it has no rules.", hint=_ADD_RULES)
    if not isinstance(document, dict) or str(document.get("dataset")).count("/") != 3:
        raise DeclarationError(
            f"{path} is not a data contract: it names no dataset, as source/database/schema/table."
        )
    batch = f"staging/{batch or _BATCHES.get(entity, f'conformed_{entity}')}"
    if str(document["dataset"]).split("/", 2)[2] != batch:
        raise DeclarationError(
            f"{path} is about another batch: its dataset is {document['dataset']}, not warehouse/dwh/{batch}.",
            hint=f"Write dataset: warehouse/dwh/{batch}",
        )
    try:
        contract = _parse(entity, deepcopy(document), unmapped, relaxed)
        can_fail = any(map(_can_fail, _checks_of(document)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DeclarationError(f"{path} is not a data contract: {error}.") from None
    if not can_fail:
        raise DeclarationError(
            f"The data contract of {entity} is empty: {path} has no rule at level fail.", hint=_ADD_RULES
        )
    if unknown := sorted(relaxed.keys() - _names_of(document)):
        close = get_close_matches(unknown[0], _names_of(document), 1, 0.0)
        raise DeclarationError(
            f"A rule that {path} does not have is relaxed: '{unknown[0]}'.",
            hint=f"Did you mean '{close[0]}'?",
        )
    return contract


@lru_cache(maxsize=256)
def _load(text: str) -> Any:
    """Parse YAML, each text only once, since `dwh live` reads contracts often. Copy the result before changing it."""
    return yaml.load(text, _Loader)


def _parse(
    entity: str, document: dict[str, Any], unmapped: frozenset[str], relaxed: Mapping[str, str]
) -> Contract:
    rules: list[RowRule] = []
    not_applicable: list[RowRule] = []
    for column in document.get("columns") or []:
        column["checks"] = _applicable(column.get("checks"), column["name"], unmapped, rules, not_applicable)
        if not column["checks"]:
            del column["checks"]
    document["checks"] = _applicable(document.get("checks"), None, unmapped, rules, not_applicable)
    if not document["checks"]:
        del document["checks"]
    # `owner` is not Soda's: it says who gets alerts about the entity (runs/alerts/owners.py).
    document.pop("owner", None)
    names = [rule.name for rule in rules]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two checks are called '{duplicates[0]}'")
    kept = tuple(rule for rule in rules if rule.name not in relaxed)
    return Contract(entity, document, kept, tuple(not_applicable), relaxed)


def _checks_of(document: Mapping[str, Any]) -> Iterable[Any]:
    for part in (*(document.get("columns") or ()), document):
        yield from part.get("checks") or ()


def _names_of(document: Mapping[str, Any]) -> set[str]:
    names = set()
    for part in (*(document.get("columns") or ()), document):
        for check in part.get("checks") or ():
            ((kind, spec),) = check.items()
            names.add((spec or {}).get("name") or _default_name(kind, part.get("name")))
    return names


def _default_name(kind: str, column: str | None) -> str:
    return f"{column} is missing" if kind == "missing" else kind


def _can_fail(check: Mapping[str, Any]) -> bool:
    (spec,) = check.values()
    threshold = (spec or {}).get("threshold") or {}
    thresholds = (threshold, threshold["additional"]) if threshold.get("additional") else (threshold,)
    return any(str(one.get("level", "fail")).lower() != "warn" for one in thresholds)


def _applicable(
    checks: list[dict[str, Any]] | None,
    column: str | None,
    unmapped: frozenset[str],
    rules: list[RowRule],
    not_applicable: list[RowRule],
) -> list[dict[str, Any]]:
    applicable = []
    for check in checks or []:
        ((kind, spec),) = check.items()
        rule = _row_rule(kind, spec or {}, column)
        if (_mentioned_columns(spec or {}) | {column}) & unmapped:
            not_applicable.append(rule or RowRule((spec or {}).get("name", kind), column, kind, ""))
            continue
        applicable.append(check)
        if rule is not None:
            rules.append(rule)
    return applicable


def _row_rule(kind: str, spec: Mapping[str, Any], column: str | None) -> RowRule | None:
    threshold = spec.get("threshold") or {}
    # A check with a threshold tolerates some bad rows, so it is a dataset rule and quarantines none.
    if threshold.get("level", "fail") != "fail" or threshold.keys() - {"level"}:
        return None
    if kind == "missing" and column is not None:
        name = spec.get("name") or _default_name(kind, column)
        return RowRule(name, column, kind, f'"{column}" is null')
    if kind == "failed_rows" and "expression" in spec:
        if not spec.get("name"):
            raise ValueError(f"a failed_rows check has no name: {spec['expression']}")
        return RowRule(spec["name"], column, kind, spec["expression"])
    return None


def _mentioned_columns(spec: Mapping[str, Any]) -> set[str]:
    """Return the words in a check's SQL that may be column names, without words in quoted texts."""
    evaluated = [spec.get("expression", ""), spec.get("query", ""), *spec.get("columns", ())]
    return set(re.findall(r"[a-z_][a-z0-9_]*", re.sub(r"'[^']*'", "", " ".join(evaluated)).lower()))
