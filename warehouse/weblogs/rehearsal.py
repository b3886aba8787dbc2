"""A dry run of a load of web logs: every new line is read and judged as a load would, and nothing is written."""

import time
from collections import Counter

from warehouse import contract, lake
from warehouse.audit import Run
from warehouse.database import connect
from warehouse.preview import EXAMPLES, Example
from warehouse.settings import Settings
from warehouse.weblogs.addresses import AddressReader
from warehouse.weblogs.blocks import BlockReader
from warehouse.weblogs.claims import Claims
from warehouse.weblogs.files import FEED, FileProgress, begun, checkpoint_of, stage_counts
from warehouse.weblogs.loader import judge_open_line
from warehouse.weblogs.odd_lines import shown
from warehouse.weblogs.parse import Rejected, parse, split_lines
from warehouse.weblogs.result import FileLoad, WeblogLoad
from warehouse.weblogs.site import read_site


def rehearse(settings: Settings, run: Run) -> tuple[WeblogLoad, tuple[Example, ...]]:
    """What a load would do with each file, and lines that it would put into quarantine; `run` must be a dry run.

    Dictionaries, files and partitions are shared with loaders at work and cannot be rolled back: so none is touched.

    Raises:
        QualityGateStopped: the contract would stop the load.
    """
    started = time.perf_counter()
    site = read_site()
    with connect(run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow} dry run") as reader:
        reader.execute("set default_transaction_read_only = on")
        claims = Claims(reader, lake.folder(settings.lake, site.landing), site.ignore)
        files: list[FileProgress] = []
        examples: list[Example] = []
        for work in claims.works():
            # A file that is new has no id yet, but the contract wants to tell it from others.
            file = begun(work, work.checkpoint.file_id if work.checkpoint else -1 - len(files))
            _reopen(file)
            examples += _judge(file)
            files.append(file)
            claims.loaded(file.file, checkpoint_of(file))
        elsewhere, unchanged = claims.elsewhere, claims.unchanged or 0
    checks = []
    agreed = contract.read_contract("weblog")
    if files and agreed is not None and run.trial is not None:
        stage_counts(run.trial, files)
        checks = contract.verify(run.trial, agreed, FEED)
        contract.stop_on_failure(agreed, checks)
    loads = tuple(_told(file) for file in files)
    return WeblogLoad(loads, unchanged, elsewhere, 0, tuple(checks), time.perf_counter() - started), tuple(
        examples
    )


def _judge(file: FileProgress) -> list[Example]:
    addresses, blocks = AddressReader(), BlockReader()
    seen: Counter[str] = Counter()
    examples = []
    for block in blocks.blocks(file.file.location, file.byte_offset):
        if block.is_oversized:
            lines = split_lines(block.buffer, block.size)
            rule = "unfinished_line" if block.is_open else "malformed_line"
            line_count, rejected = 1, [Rejected(0, rule, f"a line of {block.byte_count:,} bytes")]
        else:
            parsed = parse(block.buffer, block.size, addresses)
            lines, rejected = parsed.lines, parsed.rejected
            line_count = len(lines)
            if block.is_open:
                rejected = judge_open_line(file, parsed)
            file.has_combined |= bool(parsed.columns.agent_end.any())
        for one in rejected:
            if seen[one.rule] < EXAMPLES:
                key = (file.file.path, str(file.line_count + 1 + one.line))
                text = {"raw_text": shown(lines.text(one.line))}
                examples.append(
                    Example("audit.quarantine (weblog)", "quarantine", key, one.reason, after=text)
                )
            seen[one.rule] += 1
        file.broken.update(one.rule for one in rejected)
        file.advance(block, line_count, len(rejected))
    file.is_done, file.fault = True, blocks.fault
    return examples


def _reopen(file: FileProgress) -> None:
    """Step over the end of the last line that has come, or go back to where the line starts."""
    if file.open_line_offset is None:
        return
    with lake.reading(file.file.location) as content:
        content.skip_to(file.byte_offset)
        after = content.read(2)
    if end := lake.line_end(after):
        file.byte_offset += end
    elif after:
        file.line_count -= 1
        file.byte_offset = file.open_line_offset
    file.tail = None


def _told(file: FileProgress) -> FileLoad:
    counts = file.counts()
    return FileLoad(
        file.file.path,
        file.file_id,
        file.status,
        counts.line_count,
        counts.rows_loaded,
        counts.rows_quarantined,
        file.fault or file.message,
    )
