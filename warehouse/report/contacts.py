"""Export leads with names and e-mail addresses (personal data) to a workbook for marketing."""

from pathlib import Path

import pandas as pd
import psycopg

from warehouse.db.connections import connect
from warehouse.db.roles import LEAD_READER
from warehouse.errors import AccessRefused
from warehouse.model.mart import read_marts, title_of
from warehouse.report.sheet import TEXTS_AS_THEY_ARE, cell_of, write_whole

MODE = 0o600


def write_contacts(url: str, path: Path) -> Path:
    """Write all leads to a workbook that only its owner may read. Returns the absolute path.

    The query runs as role dwh_lead_reader, whatever other privileges the login has.

    Raises:
        AccessRefused: the login is no member of that role.
        ReportNotWritten: the file cannot be written.
    """
    columns = list(read_marts()["leads"].columns)
    with connect(url) as connection:
        try:
            connection.execute(f"set role {LEAD_READER}".encode())
            rows = connection.execute(
                f"select {', '.join(columns)} from mart.leads order by created_at desc, lead_id".encode()
            ).fetchall()
        except psycopg.errors.InsufficientPrivilege:
            raise AccessRefused(
                f"{connection.info.user} may not read the contacts of leads: it is no member of {LEAD_READER}.",
                hint=f"As an administrator: `grant {LEAD_READER} to {connection.info.user}`.",
            ) from None
    frame = pd.DataFrame(
        [[cell_of(value) for value in row] for row in rows], columns=[title_of(name) for name in columns]
    )

    def write(draft: Path) -> None:
        with pd.ExcelWriter(draft, engine="xlsxwriter", engine_kwargs=TEXTS_AS_THEY_ARE) as writer:
            frame.to_excel(writer, sheet_name="Leads", index=False)
            sheet = writer.sheets["Leads"]
            sheet.freeze_panes(1, 0)
            sheet.autofilter(0, 0, len(frame), len(columns) - 1)

    return write_whole(path, write, MODE)
