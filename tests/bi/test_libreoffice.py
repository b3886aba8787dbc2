"""The lead sheet in LibreOffice (`make bi-libreoffice`): it opens without a repair or a warning, and shows the same."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tests.bi.kept_result import FOLDER, keep
from tests.marts import MartWorld
from warehouse.model.mart import answers, title_of
from warehouse.report.sheet import write_sheet

pytestmark = pytest.mark.slow


@pytest.fixture
def office(tmp_path: Path) -> list[str]:
    """The command, with a profile of its own."""
    program = shutil.which("soffice")
    if program is None:
        pytest.skip("LibreOffice is not installed: make bi-libreoffice installs it")
    return [program, "--headless", "--norestore", f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"]


def convert(office: list[str], source: Path, kind: str, folder: Path) -> Path:
    done = subprocess.run(
        [*office, "--convert-to", kind, "--outdir", str(folder), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    # That there is no Java is no matter of the file.
    lines = [line for line in f"{done.stdout}\n{done.stderr}".lower().splitlines() if "javaldx" not in line]
    assert not any(word in line for line in lines for word in ("error", "warn", "repair", "corrupt")), lines
    return folder / f"{source.stem}.{kind.partition(':')[0]}"


def test_lead_sheet_opens_without_a_warning_and_shows_the_same(
    mart_world: MartWorld, office: list[str], tmp_path: Path
) -> None:
    # A product's name is whatever somebody typed.
    mart_world.pipeline.warehouse.execute(
        "update dwh.dim_product set name = '=1+1' where is_current and product_id = ("
        "select product_id from mart.top_sellers where product_rank = 1 limit 1)"
    )
    sheet = write_sheet(mart_world.warehouse_url, tmp_path / "leads.xlsx")
    again = convert(office, sheet, "ods", tmp_path)
    ours = pd.read_excel(sheet, sheet_name=None, engine="calamine", header=None)
    theirs = pd.read_excel(again, sheet_name=None, engine="calamine", header=None)
    assert list(theirs) == list(ours)
    cells = 0
    for name, frame in ours.items():
        other = theirs[name].reindex(index=frame.index, columns=frame.columns)
        for column in frame.columns:
            for mine, found in zip(frame[column], other[column], strict=True):
                cells += 1
                if isinstance(mine, float | int) and not pd.isna(mine):
                    assert round(float(found), 6) == round(float(mine), 6), (name, column)
                elif not pd.isna(mine):
                    assert str(found)[:19] == str(mine)[:19], (name, column)
    assert "2" not in set(
        theirs["Top 10 sellers"][list(ours["Top 10 sellers"].iloc[0]).index(title_of("product_name"))]
    )
    convert(office, sheet, "pdf", tmp_path)
    if picture := shutil.which("pdftoppm"):
        subprocess.run(
            [picture, "-png", "-r", "60", "-f", "2", "-l", "4", tmp_path / "leads.pdf", tmp_path / "page"],
            check=True,
        )
        for number, page in enumerate(sorted(tmp_path.glob("page*.png"))[:3], 1):
            shutil.copy(page, FOLDER / f"libreoffice-{number}.png")
    version = subprocess.run(
        [*office, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    keep(
        "libreoffice",
        version=version,
        sheets=len(ours),
        charts=len(answers()),
        cells_compared=cells,
        differing=0,
    )
