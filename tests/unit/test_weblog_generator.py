"""Made-up web logs: the same seed the same bytes, the counts those of the lines, the sessions those of one visitor."""

import gzip
import json
import re
from collections import Counter, defaultdict
from datetime import date
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest

from generators import weblogs
from generators.errors import GeneratorError

LINE = re.compile(
    r'(\S+) - (\S+) \[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "(\S+) (\S+) (HTTP/\S+)" '
    r'(\d{3}) (\d+|-) "([^"]*)" "([^"]*)"'
)
UNTIL = date(2026, 11, 20)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    content = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        counts = weblogs.generate(tmp_path / name, lines=3000, seed=seed, days=2, until=UNTIL)
        content.append([(tmp_path / name / file).read_bytes() for file in counts.files])
    assert content[0] == content[1] != content[2]


def test_counts_are_those_of_the_lines(tmp_path: Path) -> None:
    counts = weblogs.generate(tmp_path, lines=20_001, days=3, until=UNTIL, bad_share=0.02)
    assert counts.files == ("access-2026-11-18.log", "access-2026-11-19.log", "access-2026-11-20.log")
    content = b"".join((tmp_path / name).read_bytes() for name in counts.files)
    lines = content.decode().splitlines()
    assert len(lines) == counts.lines == 20_001
    assert len(content) == counts.bytes
    assert sum(counts.bad.values()) == sum(
        round(int(told["lines"]) * 0.02) for told in descriptions(tmp_path)
    )
    assert sum(counts.bad.values()) + sum(counts.actions.values()) == 20_001
    good = [match for line in lines if (match := LINE.fullmatch(line))]
    views = sum(match[4] == "GET" and match[5].startswith("/product/") for match in good)
    assert views >= counts.actions["view"]
    told = Counter[str]()
    for description in descriptions(tmp_path):
        told.update(description["bad"])  # type: ignore[arg-type]
    assert told == counts.bad


def descriptions(folder: Path) -> list[dict[str, object]]:
    return [
        json.loads(path.read_text())
        for path in sorted(folder.with_name(f"{folder.name}-expected").glob("*.json"))
    ]


def test_compressed_files_hold_the_same_lines_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    plain = weblogs.generate(tmp_path / "plain", lines=500, days=1, until=UNTIL).files[0]
    packed = [
        weblogs.generate(tmp_path / name, lines=500, days=1, until=UNTIL, gzip=True).files[0] for name in "ab"
    ]
    assert packed == [plain + ".gz"] * 2
    contents = [(tmp_path / name / packed[0]).read_bytes() for name in "ab"]
    assert contents[0] == contents[1]
    assert gzip.decompress(contents[0]) == (tmp_path / "plain" / plain).read_bytes()


@pytest.mark.parametrize("block_lines", [700, 100_000])
def test_visitors_search_view_add_and_check_out_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_lines: int
) -> None:
    monkeypatch.setattr(weblogs, "_BLOCK_LINES", block_lines)
    users = [f"ana{number}" for number in range(300)]
    counts = weblogs.generate(
        tmp_path,
        lines=20_000,
        days=1,
        until=UNTIL,
        usernames=users,
        product_ids=["P-1", "P-2", "P-3"],
        bad_share=0,
    )
    matches = [LINE.fullmatch(line) for line in (tmp_path / counts.files[0]).read_text().splitlines()]
    assert all(matches)
    by_visitor: dict[tuple[str, ...], list[tuple[str, str, str]]] = defaultdict(list)
    times = []
    for match in matches:
        assert match is not None
        ip_address(match[1])
        times.append(match[3])
        by_visitor[match[1], match[2], match[10]].append((match[4], match[5], match[9]))
    assert len(times) == 20_000 and times == sorted(times)
    # Sessions go on beyond the block that they began in: no second has more requests than chance gives it.
    assert max(Counter(times).values()) < 12
    assert {user for _, user, _ in by_visitor} <= {*users, "-"}
    products = {match[5].split("/")[2] for match in matches if match and match[5].startswith("/product/")}
    assert products == {"P-1", "P-2", "P-3"}
    followed = 0
    for (_, user, _), steps in by_visitor.items():
        for (_, path, _), (method, next_path, referer) in pairwise(steps):
            if referer == f"https://www.shop.example{path}":
                followed += 1
                if next_path.startswith("/cart/add"):
                    # What was looked at is what is bought.
                    assert (
                        path == f"/product/{next_path.removeprefix('/cart/add?product_id=')}"
                        and method == "POST"
                    )
                if next_path == "/checkout":
                    assert path.startswith("/cart/add") and user != "-"
    assert followed > 10_000
    assert set(counts.actions) == {"view", "search", "add_to_cart", "checkout", "login", "other"}


def test_requests_that_make_no_sense_are_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="Cannot write -1 lines on 7 days"):
        weblogs.generate(tmp_path, lines=-1)
    with pytest.raises(GeneratorError, match="The username 'ana maria' cannot appear in an access log"):
        weblogs.generate(tmp_path, lines=1, usernames=["ana maria"])
    assert weblogs.generate(tmp_path, lines=0, days=1, until=UNTIL).lines == 0
