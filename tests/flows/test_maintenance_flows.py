"""What keeps the warehouse in order, under a real Prefect server: retention, countries told again, reconcile."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from generators import geoip
from tests.flows.conftest import Tracked
from tests.pipeline import Pipeline
from tests.weblog_lake import NOBODYS, line, lines
from warehouse.errors import DifferencesFound


def test_old_requests_are_removed_countries_looked_up_again_and_differences_repaired(
    place: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: Callable[..., Tracked]
) -> None:
    # Imported late: Prefect reads its server's address when it is imported.
    from flows.ingest_source import ingest_source
    from flows.ingest_weblogs import ingest_weblogs
    from flows.reclassify_weblogs import reclassify_weblogs
    from flows.reconcile import reconcile
    from flows.remove_old_weblogs import remove_old_weblogs

    geoip.write(tmp_path / "home" / "geoip" / "demo.mmdb")
    landing = tmp_path / "lake" / "landing" / "weblogs"
    landing.mkdir(parents=True)
    old = line(6).replace(b"/2026:", b"/2001:")
    (landing / "access.log").write_bytes(lines(1, 4) + line(5, address=NOBODYS) + old)
    # More rows than a page of Prefect shows.
    place.shop.execute(
        """
        insert into customer (id, document_number, name, username, email, country)
        select 1 + n, 'd' || n, 'Eva', 'eva' || n, 'eva' || n || '@example.com', 'AR' from generate_series(1, 120) as n
        """
    )
    ingest_source("shop")
    ingest_weblogs()
    monkeypatch.setenv("DWH_WEBLOG_RETENTION_DAYS", "5000")
    assert remove_old_weblogs(confirm_deletes=True).loads[0].rows_deleted == 1
    place.warehouse.execute("update dwh.fact_weblog set country = 'ZZ' where line_number = 3")
    place.warehouse.execute("update dwh.agg_weblog_country set request_count = 0")
    place.warehouse.execute("update raw.shop_customer set name = 'Forged'")
    assert reclassify_weblogs().loads[0].rows_updated == 1
    with pytest.raises(DifferencesFound):
        reconcile()
    assert {verdict.verdict for verdict in reconcile(repair=True).verdicts} == {"equal", "repaired"}

    runs = place.rows("select flow, status, prefect_run_id from audit.run order by run_id offset 2")
    assert [(flow, status) for flow, status, _ in runs] == [
        ("remove-old-weblogs", "succeeded"),
        ("reclassify-weblogs", "succeeded"),
        ("reconcile", "stopped"),
        ("reconcile", "succeeded"),
    ]
    tasks = [
        ["remove-requests"],
        ["reclassify-requests"],
        ["reconcile-source", "reconcile-weblogs"],
        ["reconcile-source", "reconcile-weblogs"],
    ]
    seen = [tracked(prefect_run_id, names) for (*_, prefect_run_id), names in zip(runs, tasks, strict=True)]
    assert [run.state for run in seen] == ["Completed", "Completed", "Differences found", "Completed"]
    assert [sorted(run.tasks) for run in seen] == tasks
    assert [run.artifacts[flow].split("\n")[0] for run, (flow, *_) in zip(seen, runs, strict=True)] == [
        f"# {flow}: {status}" for flow, status, _ in runs
    ]
    assert {"reconcile-differences", "reconcile-verification"} <= seen[3].artifacts.keys()
    listed = place.rows(
        "select count(*), count(*) filter (where table_name = 'raw.shop_customer') from audit.difference"
        " group by run_id"
    )
    assert len(listed) == 2 and all(count > customers == 100 for count, customers in listed)
    for run in seen[2:]:
        assert len(json.loads(run.artifacts["reconcile-differences"])) == 100
        assert "Forged" not in run.artifacts["reconcile-differences"]
