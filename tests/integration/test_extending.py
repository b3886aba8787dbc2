"""docs/extending.md is right: its example of a fact is followed literally, on a copy of the project."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests import command
from tests.pipeline import Pipeline

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "extending.md"
PACKAGES = ("api", "checks", "cli", "deployments", "flows", "generators", "stack", "warehouse")
# Commands of a copy, each in a process of its own, forked from one that has imported the copy, which takes longer than
# most commands; that one was forked from one that has imported this checkout, whose libraries stay imported.
PROGRAM = f"""
import json, os, sys
for name in [name for name in sys.modules if name.partition(".")[0] in {PACKAGES}]:
    del sys.modules[name]
sys.path.insert(0, os.getcwd())
import cli.main, warehouse.load.publish, warehouse.migrations.revisions, warehouse.reconcile.reconcile
commands, codes = open(sys.argv[1]), open(sys.argv[2], "w")
for line in commands:
    arguments, environment, *outputs = json.loads(line)
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=codes, flush=True)
        continue
    os.environ.clear()
    os.environ.update(environment)
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["dwh", *arguments]
    cli.main.main()
    sys.exit()
"""
BLOCK = re.compile(r"(?P<before>[^\n]+(?:\n[^\n]+)*)\n\n```(?P<language>\w+)\n(?P<text>.*?)```\n", re.DOTALL)


class Interpreter:
    """A process that has imported a copy of the project, and forks its commands."""

    def __init__(self, folder: Path, pipes: Path) -> None:
        self._pipes = pipes
        names = [str(pipes / name) for name in ("commands", "codes")]
        for name in names:
            os.mkfifo(name)
        self._process = command.start(*names, folder=folder, program=PROGRAM)
        # In this order, as the process opens them.
        self._commands = Path(names[0]).open("w")  # noqa: SIM115
        self._codes = Path(names[1]).open()  # noqa: SIM115

    def run(
        self, arguments: tuple[str, ...], environment: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        outputs = [self._pipes / name for name in ("out", "err")]
        print(json.dumps([arguments, environment, *map(str, outputs)]), file=self._commands, flush=True)
        code = self._codes.readline()
        assert code, self._process.communicate()
        return subprocess.CompletedProcess(
            ["dwh", *arguments], int(code), *(output.read_text() for output in outputs)
        )

    def close(self) -> None:
        self._commands.close()
        assert self._process.wait() == 0
        self._codes.close()


@dataclass(frozen=True)
class Copy:
    """A copy of the project, and its `dwh`."""

    folder: Path
    environment: dict[str, str]
    # One, until a file of the copy is changed.
    _interpreters: list[Interpreter] = field(default_factory=list)

    def dwh(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        if not self._interpreters:
            pipes = Path(mkdtemp(dir=self.folder.parent))
            self._interpreters.append(Interpreter(self.folder, pipes))
        return self._interpreters[0].run(arguments, self.environment)

    def write(self, path: str, text: str) -> None:
        self.close()
        (self.folder / path).write_text(text)

    def close(self) -> None:
        while self._interpreters:
            self._interpreters.pop().close()

    def create(self, path: str, text: str) -> None:
        assert not (self.folder / path).exists(), path
        self.write(path, text)

    def add(self, path: str, text: str, to: str | None = None) -> None:
        """Add to the end of a file, or of a tuple in it."""
        content = (self.folder / path).read_text()
        if to is None:
            content = f"{content}\n{text}"
        else:
            content, count = re.subn(
                rf"(^{to}: Final[^\n]* = \(\n.*?)(^\)$)",
                lambda match: f"{match[1]}{text.rstrip()},\n{match[2]}",
                content,
                count=1,
                flags=re.MULTILINE | re.DOTALL,
            )
            assert count == 1, f"{path} has no {to}"
        self.write(path, content)


@pytest.fixture
def copy(tmp_path: Path, shop_url: str, warehouse_url: str) -> Iterator[Copy]:
    # Not the test's own folder: what imports this checkout there would find the copy.
    folder = tmp_path / "project"
    for package in PACKAGES:
        if (PROJECT / package).is_dir():
            # With its compiled modules: each command would compile hundreds of files.
            shutil.copytree(PROJECT / package, folder / package)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    environment |= {
        "DWH_HOME": str(tmp_path / "home"),
        "DWH_SHOP_URL": shop_url,
        "DWH_WAREHOUSE_URL": warehouse_url,
    }
    made = Copy(folder, environment)
    yield made
    made.close()


def test_a_fact_is_added_by_the_page_loaded_changed_and_reconciled(copy: Copy, shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    section = PAGE.read_text().partition("\n## A fact\n")[2].partition("\n## ")[0]
    blocks = list(BLOCK.finditer(section))
    for block in blocks:
        text, before = block["text"], " ".join(block["before"].split())
        if creates := re.search(r"Create `([^`]+)`:$", before):
            copy.create(creates[1], text)
        elif adds := re.search(r"In `([^`]+)`, add to `(\w+)`:$", before):
            copy.add(adds[1], text, to=adds[2])
        elif adds := re.search(r"Add to `([^`]+)`:$", before):
            copy.add(adds[1], text)
        elif block["language"] == "sql":
            shop.do(text)
            shop.do(
                "insert into payment (sales_order_id, amount, currency, paid_at) "
                "values (1, 120, 'USD', '2024-03-11'), (1, 70, 'USD', '2024-03-12'), (1, -1, 'USD', '2024-03-12')"
            )
        else:
            assert block["language"] == "sh"
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "dwh"
                done = copy.dwh(*arguments)
                assert done.returncode == 0, (line, done.stdout, done.stderr)
    payments = """
        select payment_id, paid_amount, paid_date_key, customer_id, method.name
        from dwh.fact_payment left join dwh.dim_customer using (customer_key)
        left join dwh.dim_payment_method as method using (payment_method_key) order by payment_id
    """
    assert [tuple(map(str, row)) for row in shop.rows(payments)] == [
        ("1", "120.0000", "20240311", "1", "Visa"),
        ("2", "70.0000", "20240312", "1", "Visa"),
    ]
    assert shop.rows("select row_key, rules from audit.quarantine where entity = 'payment'") == [
        (["3"], ["amount is not positive"])
    ]

    shop.do(
        "update payment set amount = 80, updated_at = now() where id = 2", "delete from payment where id = 1"
    )
    assert copy.dwh("run", "shop", "--confirm-deletes").returncode == 0
    assert [tuple(map(str, row)) for row in shop.rows(payments)] == [
        ("2", "80.0000", "20240312", "1", "Visa")
    ]

    shop.warehouse.execute("update dwh.fact_payment set paid_amount = 7, customer_key = 0")
    found = copy.dwh("reconcile", "--json")
    assert found.returncode == 3
    (verdict,) = [row for row in json.loads(found.stdout) if row["table_name"] == "dwh.fact_payment"]
    assert verdict["amounts"]["paid_amount"] == {"found": 7, "expected": 80}
    assert copy.dwh("reconcile", "--repair").returncode == 0
    assert [tuple(map(str, row)) for row in shop.rows(payments)] == [
        ("2", "80.0000", "20240312", "1", "Visa")
    ]


# The same within a process: test_reconform.py, test_generated_migration.py.
@pytest.mark.slow
def test_an_attribute_is_added_and_filled_in_every_version_of_every_member(
    copy: Copy, shop: Pipeline
) -> None:
    shop.insert("customer", id=2, name="Bruno")
    shop.do("alter table customer add column gender text", "update customer set gender = 'f' where id = 1")
    shop.capture()
    shop.do("update customer set country = 'UY', updated_at = '2024-03-01' where id = 1")
    shop.capture()

    column = 'Column("loyalty_tier", "text", "Tier in the loyalty programme", tracked=True),'
    for path, old, new in (
        ("warehouse/model/star.py", column, f'{column} Column("gender", "text", "Gender", tracked=True),'),
        ("warehouse/sources/shop/conform/customer.sql", "customer.name,", "customer.name, customer.gender,"),
        ("warehouse/sources/northwind/source.toml", '"birth_date"', '"birth_date", "gender"'),
    ):
        text = (copy.folder / path).read_text()
        assert old in text, path
        copy.write(path, text.replace(old, new, 1))
    for arguments in (["migrate", "--new", "add gender to dim_customer"], ["migrate"], ["run", "shop"]):
        done = copy.dwh(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert "dwh.dim_customer is conformed again as a whole: column gender is new" in done.stderr
    assert shop.versions("customer", "country", "gender") == [
        ("1", "AR", "f", "ever", "2024-03-01"),
        ("1", "UY", "f", "2024-03-01", "now"),
        ("2", "AR", None, "ever", "now"),
    ]
    found = copy.dwh("reconcile")
    assert found.returncode == 0, found.stdout
