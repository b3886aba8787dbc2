"""Documents: links lead somewhere, errors are in the runbook, decisions in their index."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Headings as they are linked to: lowercase, blanks as hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for link in LINK.findall(document.read_text()):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert broken == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    decisions = {
        path.name: path.read_text().splitlines()[0].removeprefix("# ") for path in folder.glob("[0-9]*.md")
    }
    index = dict(re.findall(r"^- \[(.*)\]\((.*)\)$", (folder / "README.md").read_text(), re.MULTILINE))
    assert {name: title for title, name in index.items()} == decisions
    assert all(title[:4] == name[:4] for name, title in decisions.items())


def test_every_error_is_in_the_runbook() -> None:
    documented = set(
        re.findall(r"^\| `([A-Z]\w+)` \|", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    )
    classes = [
        node
        for package in ("warehouse", "stack", "generators", "flows", "cli", "api")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    errors = {"WarehouseError", "StackError", "GeneratorError", "OrderApiError"}
    while (
        more := {node.name for node in classes if errors & {ast.unparse(base) for base in node.bases}}
        - errors
    ):
        errors |= more
    assert errors - {"WarehouseError"} == documented
