"""Queue mails in the warehouse, in the transaction of the state that they are about."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from typing import Any

import psycopg
from psycopg.rows import dict_row

from warehouse.db.connection_errors import is_transient
from warehouse.errors import (
    AlreadyRecorded,
    ConnectionFailed,
    DeleteThresholdExceeded,
    RunLost,
    StepsFailed,
    VerificationFailed,
    summarize_error,
)
from warehouse.model.mart import FOLDER
from warehouse.runs.alerts.compose import NEXT, Alert, Kind, compose, format_span, format_time
from warehouse.runs.alerts.owners import find_owners
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.live_process import LiveProcess

REPORTED = "_is_reported"
MOST_DETAILS = 10
# Kinds of mail that are not about an open problem: sent every time, and never closed by a successful run.
NOTICES = ("recovered", "files not read", "reminder")
# Problems of successful runs: they are open until a run succeeds without them.
LASTING = ("quarantine", "verification late")
# Verification is late after 1.25 times DWH_VERIFY_WITHIN: its rotation may be late by a run or two.
LATE_BY = 1.25


def enqueue_alert(
    connection: psycopg.Connection, run_id: int, status: str, error: BaseException | None, rules: Rules
) -> None:
    """Queue the mails about the end of a run, in the transaction that records the end.

    If a mail cannot be queued, this is written to stderr, and the end of the run is still recorded.
    """
    try:
        with connection.transaction():
            if error is None:
                _close_problems(connection, run_id, rules)
            elif status != "cancelled" and not is_reported(error, rules):
                _queue(connection, _alert(connection, run_id, _kind(status, error), error, rules))
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise
    except Exception as failure:
        sys.stderr.write(f"No mail about run {run_id}: {type(failure).__name__}: {failure}\n")


def enqueue_crash_alert(connection: psycopg.Connection, run_ids: Sequence[int], rules: Rules) -> None:
    """Queue one mail for each process that is gone, since a flow and its steps run in one process."""
    families: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in sorted(_runs(connection, run_ids), key=lambda run: int(run["run_id"])):
        families.setdefault((run["host"], run["pid"]), []).append(run)
    for (host, pid), (outer, *steps) in families.items():
        alert = _alert(connection, outer["run_id"], "crashed", None, rules)
        details = [f"In step {step['flow']} (run {step['run_id']})." for step in steps]
        what = f"Process {pid} on {host}, which ran it, is gone."
        _queue(connection, replace(alert, what=what, details=details))


def enqueue_late_alert(
    connection: psycopg.Connection, flow: str, due: datetime, last_success: datetime | None, rules: Rules
) -> bool:
    """Queue a mail about a flow that has not succeeded in time. Returns whether the problem is new.

    It is sent even if the flow has another open problem: an earlier failure does not mean that it no longer runs.
    """
    last = f"It last succeeded at {format_time(last_success)}." if last_success else "It has never succeeded."
    what = f"It should have succeeded by {format_time(due)}. {last}"
    recipients = find_owners(rules.sources, flow=flow)
    return _queue(
        connection, Alert("late", flow, "", what, since=due, link=rules.ui_url, recipients=recipients)
    )


def enqueue_gone_alert(connection: psycopg.Connection, process: LiveProcess, rules: Rules) -> bool:
    """Queue a mail about a live process that has died. Returns whether the problem is new."""
    flow = process.flow
    what = (
        f"`dwh live`, process {process.pid} on {process.host}, is gone: changes of {process.source} come by "
        f"scheduled runs alone since {format_time(process.asked_at or process.started_at)}."
    )
    recipients = find_owners(rules.sources, flow=flow)
    return _queue(
        connection,
        Alert(
            "crashed",
            flow,
            "",
            what,
            since=process.asked_at or process.started_at,
            hint="Start it again: `dwh live`, or `dwh up --live`. Nothing was lost.",
            link=rules.ui_url,
            recipients=recipients,
        ),
    )


def enqueue_reminders(
    connection: psycopg.Connection, flows: Sequence[str], now: datetime, rules: Rules
) -> list[str]:
    """Queue a reminder for each of these flows with an open problem and no mail for DWH_REMINDER_HOURS.

    One mail lists all open problems of a flow: often they have one cause. Call it in a transaction. Returns the flows.
    """
    if not rules.reminder_hours:
        return []
    with connection.cursor(row_factory=dict_row) as cursor:
        problems = cursor.execute(
            """
            with due as (
                select flow from audit.outbox
                where resolved_at is null and flow = any(%(flows)s)
                group by flow
                having min(coalesce(reminded_at, created_at)) <= %(now)s - make_interval(secs => %(seconds)s)
            )

            update audit.outbox as mail set reminded_at = %(now)s
            from audit.outbox as problem
            inner join due on problem.flow = due.flow
            left join audit.run as run on run.run_id = problem.run_id
            where mail.mail_id = problem.mail_id and mail.resolved_at is null
            returning mail.flow, mail.kind, mail.subject, mail.run_id, mail.created_at, mail.recipients,
                mail.occurrence_count, mail.last_occurred_at, run.hint, run.prefect_run_id
            """,
            {"flows": list(flows), "now": now, "seconds": rules.reminder_hours * 3600},
        ).fetchall()
    problems.sort(key=lambda one: (one["flow"], one["created_at"]))
    reminded = [
        _reminder(flow, list(group), now, rules)
        for flow, group in groupby(problems, lambda one: str(one["flow"]))
    ]
    for alert in reminded:
        _queue(connection, alert)
    return [alert.flow for alert in reminded]


def _reminder(flow: str, problems: Sequence[dict[str, Any]], now: datetime, rules: Rules) -> Alert:
    first = problems[0]
    return Alert(
        "reminder",
        flow,
        "",
        f"for {format_span(now - first['created_at'])}: {_headline(first)}",
        since=first["created_at"],
        hint=first["hint"] or NEXT[first["kind"]],
        run_id=first["run_id"],
        details=[
            f"{_headline(one)}: {_times(one['occurrence_count'])} since {format_time(one['created_at'])}, "
            f"last at {format_time(one['last_occurred_at'])}"
            for one in problems
        ],
        link=rules.run_link(first["prefect_run_id"]) or rules.ui_url,
        recipients=list(dict.fromkeys(owner for one in problems for owner in one["recipients"] or ())),
    )


def _headline(problem: Mapping[str, Any]) -> str:
    return str(problem["subject"]).removeprefix("[dwh] ")


def has_overdue_mail(connection: psycopg.Connection) -> bool:
    """Whether a mail could not be sent for an hour, so that nobody would learn of a problem."""
    return bool(
        connection.execute(
            "select from audit.outbox where sent_at is null and attempts > 0 "
            "and created_at < clock_timestamp() - interval '1 hour' limit 1"
        ).rowcount
    )


def is_reported(error: BaseException, rules: Rules) -> bool:
    """Whether no mail about `error` is needed: an inner run has queued one, or the rules exclude it."""
    if isinstance(error, StepsFailed):
        return all(is_reported(step, rules) for step in error.failed.values())
    return isinstance(error, (*rules.unreported, AlreadyRecorded)) or getattr(error, REPORTED, False)


def mark_enqueued(error: BaseException | None) -> None:
    """Mark `error` as queued for mail, so that outer runs do not queue another mail."""
    if error is not None:
        setattr(error, REPORTED, True)


def _close_problems(connection: psycopg.Connection, run_id: int, rules: Rules) -> None:
    run = _runs(connection, [run_id])[0]
    breached = rules.breached(run["rows_quarantined"], run["rows_read"])
    # A run that read no rows does not show whether the source's quality is good again.
    over = [] if breached or not run["rows_read"] else ["quarantine"]
    late = _late_verifications(connection, run_id, rules)
    if not late:
        over.append("verification late")
    ended = connection.execute(
        """
        update audit.outbox set resolved_at = clock_timestamp()
        where flow = %s and resolved_at is null and (kind <> all(%s) or kind = any(%s))
        returning kind, created_at, occurrence_count
        """,
        [run["flow"], list(LASTING), over],
    ).fetchall()
    if troubles := sorted((since, kind, times) for kind, since, times in ended if kind not in LASTING):
        since = troubles[0][0]
        details = [
            f"{kind.capitalize()} {_times(times)} since {format_time(at)}." for at, kind, times in troubles
        ]
        alert = _alert(connection, run_id, "recovered", None, rules)
        what = f"Run {run_id} succeeded."
        _queue(connection, replace(alert, what=what, details=details, since=since))
    if breached:
        alert = _alert(connection, run_id, "quarantine", None, rules)
        read, kept = run["rows_read"], run["rows_quarantined"]
        share = f" ({kept / read:.1%})" if read else ""
        _queue(
            connection,
            replace(
                alert,
                what=f"{kept:,} of {read:,} rows{share} broke a rule.",
                hint=_about_quarantine(connection, run_id),
                details=_rules(connection, run_id),
            ),
        )
    if late:
        alert = _alert(connection, run_id, "verification late", None, rules)
        what = f"{len(late):,} {'table is' if len(late) == 1 else 'tables are'} not verified within DWH_VERIFY_WITHIN."
        _queue(connection, replace(alert, what=what, details=late[:MOST_DETAILS]))
    if files := _unread_files(connection, run_id):
        alert = _alert(connection, run_id, "files not read", None, rules)
        count = len(files)
        what = f"{count:,} files are" if count > 1 else "1 file is"
        details = files[:MOST_DETAILS]
        if count > MOST_DETAILS:
            details.append(f"and {count - MOST_DETAILS:,} more")
        _queue(connection, replace(alert, what=f"{what} not read.", details=details))


def _alert(
    connection: psycopg.Connection, run_id: int, kind: Kind, error: BaseException | None, rules: Rules
) -> Alert:
    run = _runs(connection, [run_id])[0]
    facts = [
        ("Run", str(run_id)),
        ("Started", f"{format_time(run['started_at'])} by {run['launched_by']}"),
        ("Host", f"{run['host']}, process {run['pid']}"),
        ("Code", run["code_version"]),
    ]
    if run["deployment"]:
        facts.insert(1, ("Deployment", run["deployment"]))
    if kind not in ("recovered", "files not read", *LASTING):
        facts.append(("Last success", format_time(run["succeeded_at"]) if run["succeeded_at"] else "never"))
    what = summarize_error(error) if error else ""
    return Alert(
        kind,
        run["flow"],
        "" if error is None or kind == "crashed" else _cause(error),
        str(what),
        since=run["started_at"],
        hint=getattr(error, "hint", None),
        run_id=run_id,
        details=_failed_checks(connection, run_id) if kind == "gate stopped" else (),
        facts=facts,
        link=rules.run_link(run["prefect_run_id"]),
        recipients=find_owners(
            rules.sources,
            flow=run["flow"],
            contracts=_entities(connection, run_id) if kind in ("gate stopped", "quarantine") else (),
            concerns=getattr(error, "concerns", ""),
        ),
    )


def _queue(connection: psycopg.Connection, alert: Alert) -> bool:
    mail = compose(alert)
    # A repeated problem only increases the count of its open mail. Notices are inserted as resolved.
    row = connection.execute(
        """
        insert into audit.outbox
            (run_id, flow, kind, problem, subject, body_text, body_html, recipients, resolved_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, case when %s then clock_timestamp() end)
        on conflict (problem) where resolved_at is null
            do update set occurrence_count = outbox.occurrence_count + 1, last_occurred_at = clock_timestamp()
        returning occurrence_count = 1
        """,
        [
            alert.run_id,
            alert.flow,
            alert.kind,
            alert.problem,
            mail.subject,
            mail.body_text,
            mail.body_html,
            list(alert.recipients) or None,
            alert.kind in NOTICES,
        ],
    ).fetchone()
    return row is not None and bool(row[0])


def _cause(error: BaseException) -> str:
    """Return the key by which errors count as one problem. A lost database causes various errors: they get one key."""
    is_gone = isinstance(error, RunLost) or is_transient(error)
    return ConnectionFailed.__name__ if is_gone else type(error).__name__


def _entities(connection: psycopg.Connection, run_id: int) -> list[str]:
    """Return the entities whose contracts the run's rows broke."""
    rows = connection.execute(
        """
        select dataset from audit.check_result where run_id = %(run_id)s and outcome = 'failed'
        union select entity from audit.quarantine where run_id = %(run_id)s
        """,
        {"run_id": run_id},
    ).fetchall()
    return [entity for (entity,) in rows]


def _kind(status: str, error: BaseException) -> Kind:
    if isinstance(error, DeleteThresholdExceeded):
        return "delete threshold exceeded"
    if isinstance(error, VerificationFailed):
        return "differences found"
    if status == "stopped":
        return "gate stopped"
    return "crashed" if status == "crashed" else "failed"


def _runs(connection: psycopg.Connection, run_ids: Sequence[int]) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"""
            select run.run_id, run.flow, run.deployment, run.prefect_run_id, run.launched_by, run.code_version,
                run.host, run.pid, run.started_at, job.rows_read, job.rows_quarantined,
                (
                    select last.ended_at from audit.run as last
                    where last.flow = run.flow and last.status = 'succeeded'
                    order by last.started_at desc limit 1
                ) as succeeded_at
            from audit.run as run
            join ({_query_of("job_run")}) as job on job.run_id = run.run_id
            where run.run_id = any(%s)
            """.encode(),
            [list(run_ids)],
        ).fetchall()


def _failed_checks(connection: psycopg.Connection, run_id: int) -> list[str]:
    rows = connection.execute(
        """
        select format('%%s: %%s%%s', dataset, check_name, ' — ' || nullif(message, ''))
        from audit.check_result where run_id = %s and outcome = 'failed' and level = 'fail'
        order by check_result_id limit %s
        """,
        [run_id, MOST_DETAILS],
    ).fetchall()
    return [line for (line,) in rows]


def _about_quarantine(connection: psycopg.Connection, run_id: int) -> str:
    """Return the hint for quarantined rows. Unlike rows of a source, lines of files cannot be corrected there."""
    row = connection.execute(
        """
        select coalesce(bool_or(row_key is not null), false), coalesce(bool_or(row_key is null), false)
        from audit.quarantine where run_id = %s
        """,
        [run_id],
    ).fetchone()
    assert row is not None
    has_rows, has_lines = row
    return " ".join(
        [
            f"`dwh quarantine list --run {run_id}` lists them with their reasons.",
            *(["Rows that are corrected at the source are published by its next run."] if has_rows else []),
            *(
                ["Lines of files stay there as a record: what is written into a log is not corrected."]
                if has_lines
                else []
            ),
        ]
    )


def _rules(connection: psycopg.Connection, run_id: int) -> list[str]:
    rows = connection.execute(
        """
        select format('%%s: %%s, %%s rows', entity, rule, count(*))
        from audit.quarantine, unnest(rules) as broken (rule)
        where run_id = %s group by entity, rule order by count(*) desc, entity, rule limit %s
        """,
        [run_id, MOST_DETAILS],
    ).fetchall()
    return [line for (line,) in rows]


def _unread_files(connection: psycopg.Connection, run_id: int) -> list[str]:
    """Return files that this run was the first to find unreadable, each with its hint."""
    rows = connection.execute(
        f"""
        select format('%%s %%s. %%s', path, reason, hint) from ({_query_of("unread_file")}) as unread
        where run_id = %s and status in ('unrecognized', 'unread') order by path
        """.encode(),
        [run_id],
    ).fetchall()
    return [line for (line,) in rows]


def _query_of(mart: str) -> str:
    """Return the query of a view, which may be missing: the run that creates it again must be able to start and end."""
    return (FOLDER / f"{mart}.sql").read_text().replace("%", "%%")


def _late_verifications(connection: psycopg.Connection, run_id: int, rules: Rules) -> list[str]:
    """Return the tables of the run's source whose verification (of key ranges or the whole table) is late."""
    if rules.verify_within is None:
        return []
    rows = connection.execute(
        """
        with table_part as (
            select
                watermark.source, watermark.table_name, key_range.source is not null as is_range,
                case when key_range.source is null then watermark.complete_at else key_range.verified_at end
                    as verified_at,
                max(watermark.captured_at) over (partition by watermark.source) - %(within)s as latest
            from audit.watermark as watermark
            left join audit.key_range as key_range using (source, table_name)
            -- Skip feeds: they have no source tables to verify against.
            where watermark.table_identity -> 'relations' <> '{}'
                and watermark.source in (select source from audit.watermark where run_id = %(run_id)s)
        )

        select
            source, table_name, min(verified_at), count(*) filter (where verified_at < latest),
            count(*) filter (where is_range)
        from table_part
        group by source, table_name
        having bool_or(verified_at < latest)
        order by source, table_name
        """,
        {"run_id": run_id, "within": rules.verify_within * LATE_BY},
    ).fetchall()
    return [
        f"{source} → {table}: {late:,} of {ranges:,} key ranges, the oldest at {format_time(since)}"
        if ranges
        else f"{source} → {table}: last scanned at {format_time(since)}"
        for source, table, since, late, ranges in rows
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
