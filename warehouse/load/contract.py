"""Verify a batch against its data contract with Soda, and stop the run if a rule about the whole batch fails."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import Any

import psycopg
from psycopg import pq

from warehouse.db.connection_errors import is_of_statement
from warehouse.errors import DeclarationError, QualityGateStopped
from warehouse.model.contracts import Contract
from warehouse.runs.audit import CheckResult

os.environ.setdefault("SODA_CORE_TELEMETRY_ENABLED", "false")

# Soda's outcomes that have another name in audit.check_result.
OUTCOMES = {"warn": "warned", "excluded": "not_evaluated"}


# Soda keeps its logs and check types in globals, which it fills when it is imported: only one thread may use it.
_ONE_AT_A_TIME = Lock()
# By source and entity, the contract and its compiled checks.
_compiled: dict[tuple[str, str], tuple[Contract, Any]] = {}


def import_soda() -> None:
    """Import Soda, which takes half a second; call it early or in a thread, so that no batch waits for it."""
    with _ONE_AT_A_TIME:
        import soda_core.contracts.contract_verification  # noqa: F401


def prepare(connection: psycopg.Connection, contracts: Iterable[Contract], source: str) -> None:
    """Compile contracts before a batch waits for them.

    Raises:
        DeclarationError: one cannot be compiled.
    """
    with _ONE_AT_A_TIME, _quiet(), _asking(connection):
        for contract in contracts:
            with _explaining(contract):
                _checks_of(contract, source)


def verify(connection: psycopg.Connection, contract: Contract, source: str) -> list[CheckResult]:
    """Verify the batch by Soda, inside the transaction of `connection`, which sees rows that are not yet committed.

    A contract is compiled once per process: compiling takes thirty times as long as the queries of a small batch.

    Raises:
        DeclarationError: the contract cannot be run.
        psycopg.Error: the connection was lost, or a query was cancelled.
    """
    with _ONE_AT_A_TIME:
        return _verify(connection, contract, source)


def _verify(connection: psycopg.Connection, contract: Contract, source: str) -> list[CheckResult]:
    from soda_core.common.logs import LogsCollector

    with _quiet(), _asking(connection) as asking, _explaining(contract):
        checks = _checks_of(contract, source)
        # Freshness checks compare with this time, which Soda sets when it compiles the contract.
        checks.yaml.data_timestamp = datetime.now(UTC)
        # Soda reads its own errors from its log; start with an empty one.
        checks.logs.gatherer = LogsCollector()
        with connection.transaction() as savepoint, checks.logs.activate(checks.thread_label):
            verified = checks.verify()
            # Soda reports every error as the contract's; lost sessions and cancelled queries are raised as they are.
            if asking.failure is not None and not is_of_statement(asking.failure):
                raise asking.failure
            # Soda only reads, but a failed query, which it logs, leaves the transaction in error.
            if connection.info.transaction_status == pq.TransactionStatus.INERROR:
                raise psycopg.Rollback(savepoint)
        problem = checks.logs.get_errors_str().strip()
    if problem or not verified.check_results:
        raise _cannot_run(contract, problem or "it checks nothing")
    names = {(rule.kind, rule.column, rule.name) for rule in contract.row_rules}
    results = [_result(check, source, contract, names) for check in verified.check_results]
    unmapped = f"Source '{source}' does not map the column."
    return results + [
        CheckResult(
            source, contract.entity, rule.name, rule.kind, rule.column, "quarantine", "not_applicable",
            measured=None, threshold=None, rows_checked=None, message=unmapped,
        )
        for rule in contract.not_applicable
    ]  # fmt: skip


def compiled_checks(contract: Contract, source: str) -> list[Any]:
    """Return Soda's checks of a contract that was verified, in the order of the results."""
    _, checks = _compiled[source, contract.entity]
    return list(checks.all_check_impls)


def _checks_of(contract: Contract, source: str) -> Any:
    compiled_contract, checks = _compiled.get((source, contract.entity), (None, None))
    # Soda resolves variables, such as the time, when it compiles, so contracts with variables are compiled each time.
    if compiled_contract != contract or "variables" in contract.document:
        checks = _compile(contract)
        _compiled[source, contract.entity] = contract, checks
    return checks


def _compile(contract: Contract) -> Any:
    """Compile a contract to Soda's checks and their queries, which can be verified any number of times."""
    from soda_core.common.logs import Logs
    from soda_core.common.yaml import ContractYamlSource, YamlObject
    from soda_core.contracts.impl.contract_verification_impl import ContractImpl

    logs = Logs()
    # Pass the document that was read already: Soda's YAML parser, which keeps comments and positions, is slow.
    source = ContractYamlSource.from_str("")
    parsed = ContractImpl.yaml_class.parse(
        yaml_source=source,
        yaml_object=YamlObject(source, _with_places(contract.document)),
        provided_variable_values={},
    )
    checks = ContractImpl(
        yaml=parsed,
        data_source_impl=None,
        all_data_source_impls={"warehouse": _data_source()},
        logs=logs,
        data_timestamp=parsed.data_timestamp,
        execution_timestamp=parsed.execution_timestamp,
    )
    if problem := logs.get_errors_str().strip():
        raise _cannot_run(contract, problem)
    for check in checks.all_check_impls:
        # Soda describes a check as YAML in every result, which takes longer than to evaluate it: do that once.
        check._build_check_info = cache(check._build_check_info)
    # Soda writes a table of all results to its log, which nobody reads, and that takes longer than to evaluate them.
    checks.build_log_summary = lambda **_: []
    return checks


@contextmanager
def _explaining(contract: Contract) -> Iterator[None]:
    from soda_core.common.exceptions import SodaCoreException

    try:
        yield
    except SodaCoreException as error:
        raise _cannot_run(contract, str(error)) from error


def _cannot_run(contract: Contract, problem: str) -> DeclarationError:
    return DeclarationError(
        f"The contract of {contract.entity} cannot be run: {problem}.",
        hint=f"Correct checks/{contract.entity}.yml.",
    )


def _with_places(value: Any) -> Any:
    """Copy a document to ruamel's types with the line numbers that Soda requires, all of them 0."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        fields = CommentedMap((key, _with_places(item)) for key, item in value.items())
        for key in fields:
            fields.lc.add_kv_line_col(key, [0, 0, 0, 0])
        return fields
    if isinstance(value, list):
        items = CommentedSeq(map(_with_places, value))
        for index in range(len(items)):
            items.lc.add_idx_line_col(index, [0, 0])
        return items
    return value


def stop_on_failure(contract: Contract, results: Sequence[CheckResult]) -> None:
    """Stop the run if a check about the whole batch has failed or could not be evaluated.

    Raises:
        QualityGateStopped: names each of these checks.
    """
    failed = [r for r in results if r.level == "fail" and r.outcome in ("failed", "not_evaluated")]
    if failed:
        rules = "; ".join(f"{r.check_name} (measured {r.measured}, wanted {r.threshold})" for r in failed)
        raise QualityGateStopped(
            f"The contract of {contract.entity} stopped the run: {rules}.",
            hint="Nothing was published. Correct the rows in the source, or the contract in "
            f"checks/{contract.entity}.yml, and run again.",
        )


def _result(
    check: Any, source: str, contract: Contract, row_rules: set[tuple[str, str | None, str]]
) -> CheckResult:
    kind, column = check.check.type, check.check.column_name
    name = check.check.name or kind
    if kind == "missing" and (not check.check.name or name == "No missing values"):
        name = f"{column} is missing"
    is_row_rule = (kind, column, name) in row_rules
    threshold = check.check.threshold
    level = "quarantine" if is_row_rule else getattr(threshold, "level", "fail") or "fail"
    reason = contract.relaxed.get(name)
    outcome = OUTCOMES.get(check.outcome.name.lower(), check.outcome.name.lower())
    metrics = check.diagnostic_metric_values or {}
    rows = metrics.get("dataset_rows_tested", metrics.get("check_rows_tested"))
    return CheckResult(
        source,
        contract.entity,
        name,
        kind,
        column,
        level if reason is None else "warn",
        outcome if reason is None else "relaxed",
        check.threshold_value,
        " ".join(str(threshold).split()).removeprefix(f"level: {getattr(threshold, 'level', '')} ")
        if threshold
        else None,
        int(rows) if rows is not None else None,
        reason,
    )


@contextmanager
def _asking(connection: psycopg.Connection) -> Iterator[Any]:
    """Let all checks query through this connection. Yields Soda's connection, with the last error as `failure`."""
    data_source = _data_source()
    data_source.data_source_connection = asking = _connection_class()(
        "warehouse", data_source.data_source_model.connection_properties, connection
    )
    try:
        yield asking
    finally:
        data_source.data_source_connection = None


@cache
def _connection_class() -> Any:
    from soda_core.common.data_source_connection import DataSourceConnection
    from soda_postgres.common.data_sources.postgres_data_source_connection import PostgresDataSourceConnection

    class SharedConnection(PostgresDataSourceConnection):  # type: ignore[misc]
        """Lets Soda use the publishing transaction's connection without committing, rolling back or closing it."""

        def __init__(self, name: str, properties: object, connection: object) -> None:
            DataSourceConnection.__init__(self, name, properties, connection)
            self.failure: psycopg.Error | None = None

        def execute_query(self, sql: str, log_query: bool = True) -> Any:
            try:
                return super().execute_query(sql, log_query)
            except psycopg.Error as error:
                self.failure = error
                raise

        def close_connection(self) -> None: ...

        def commit(self) -> None: ...

        def rollback(self) -> None: ...

    return SharedConnection


@cache
def _data_source() -> Any:
    """The warehouse as Soda's data source; contracts name a fixed database, which need not be this one's name."""
    # Import this module first: soda_postgres would otherwise import it in a circle and log an error.
    import soda_core.contracts.contract_verification  # noqa: F401
    from soda_postgres.common.data_sources.postgres_data_source import (
        PostgresDataSourceImpl,
        PostgresDataSourceModel,
        PostgresSqlDialect,
    )

    class CurrentDatabase(PostgresSqlDialect, sqlglot_dialect="postgres"):  # type: ignore[misc, call-arg]
        """Qualifies tables by schema only, not by database."""

        def _build_qualified_quoted_dataset_name(
            self, dataset_name: str, dataset_prefix: list[str] | None
        ) -> str:
            schema = dataset_prefix[-1:] if dataset_prefix else None
            return str(super()._build_qualified_quoted_dataset_name(dataset_name, schema))

        def extract_database_from_prefix(self, prefixes: list[str]) -> None: ...

    connection = dict.fromkeys(("host", "database", "user", "password"), "given")
    model = PostgresDataSourceModel.model_validate(
        {"type": "postgres", "name": "warehouse", "connection": connection}
    )
    data_source = PostgresDataSourceImpl(data_source_model=model)
    data_source.sql_dialect = CurrentDatabase()
    return data_source


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Soda's log off the terminal, without disabling it: Soda reads its own errors from the log."""

    def is_ours(record: logging.LogRecord) -> bool:
        return not record.name.startswith("soda")

    handlers = [h for h in logging.root.handlers if not type(h).__module__.startswith("soda_core")]
    for handler in handlers:
        handler.addFilter(is_ours)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_ours)
