"""Explain a web-log line: its raw text, its row or quarantine entry, its run, and how its country was determined."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from warehouse import geoip
from warehouse.errors import SettingsError, WarehouseError
from warehouse.files.content import ContentReader
from warehouse.files.lake import fingerprint
from warehouse.files.locations import Location
from warehouse.settings import Settings
from warehouse.weblogs.files.blocks import bytes_before_lines
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.files.landing import discover, located
from warehouse.weblogs.formats.blocks import BlockParser
from warehouse.weblogs.formats.declaration import read_formats
from warehouse.weblogs.reader import fallback
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING

# Longer lines are cut to this length.
_SHOWN_BYTES = 1 << 16
_READ = 1 << 20
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

Row = dict[str, Any]


@dataclass(frozen=True)
class Explanation:
    """All that is known of a line; `fault` says why its raw text is missing or differs from what was loaded."""

    file_id: int
    path: str
    line_number: int
    state: str
    # Where the file is now.
    location: str | None = None
    byte_offset: int | None = None
    raw_line: str | None = None
    fault: str | None = None
    # The row with its keys and what they refer to.
    row: Row = field(default_factory=dict)
    country_reason: str | None = None
    quarantine: Row = field(default_factory=dict)
    run: Row = field(default_factory=dict)


def explain(connection: psycopg.Connection, settings: Settings, key: str) -> Explanation:
    """Explain the line `key`: 'FILE:LINE', where FILE is a file_id or the path in the landing folder.

    Raises:
        SettingsError: the key has another form.
        WarehouseError: no such file or line was ever loaded.
    """
    file, line = _file_and_line(connection, key)
    row = _row(connection, file["file_id"], line)
    quarantine = _quarantine(connection, file["file_id"], line)
    run_id = (row or quarantine or file)["run_id"]
    part = _part(connection, file, line)
    declared = read_formats(settings).of(file["path"])
    parser = declared.parser()
    offset, raw, location, fault = _raw_line(settings, file, part, line, parser)
    if raw is not None and fault is None:
        fault = _contradiction(raw, row, quarantine, parser)
        if fault is not None and file["format"] not in (None, str(declared)):
            fault = f"It was read in the format {file['format']}; now {declared} is declared."
    if row:
        state = "loaded"
    elif quarantine:
        state = "quarantined" if quarantine["resolved_at"] is None else str(quarantine["resolution"])
    elif line in file["header_lines"]:
        state = "no request: it says how the lines after it are read"
    elif line <= file["lines_duplicated"]:
        state = f"loaded as another file's: {file['message']}"
    else:
        state = "loaded, and removed by retention since"
    return Explanation(
        file_id=file["file_id"],
        path=file["path"],
        line_number=line,
        state=state,
        location=None if location is None else str(location),
        byte_offset=offset,
        raw_line=None if raw is None else fallback.printable(raw[:_SHOWN_BYTES]),
        fault=fault,
        row=row,
        country_reason=_explain_country(connection, settings, row) if row else None,
        quarantine=quarantine,
        run=_one(
            connection,
            "select run_id, flow, status, started_at, launched_by, code_version, parameters ->> 'geoip' as geoip "
            "from audit.run where run_id = %s",
            run_id,
        ),
    )


def _file_and_line(connection: psycopg.Connection, key: str) -> tuple[Row, int]:
    name, _, number = key.rpartition(":")
    if not name or not number.isdecimal() or int(number) < 1:
        raise SettingsError(
            f"'{key}' is not a web-log line.",
            hint="Use FILE:LINE, as in 3:17 or access-2026-11-20.log:17 (file_id and line_number of mart.weblog).",
        )
    columns = (
        "file_id, path, head_bytes, head_hash, line_count, lines_duplicated, status, message, run_id, header_lines, "
        "format"
    )
    by = "file_id = %s::integer" if name.isdecimal() and len(name) < 10 else "path = %s"
    file = _one(
        connection,
        f"select {columns} from audit.file where feed = '{FEED}' and {by} "
        "order by status = 'replaced', file_id desc limit 1",
        name,
    )
    if not file:
        raise WarehouseError(
            f"No web log {name} was ever loaded.",
            hint="List the files: dwh psql -- -c \"select file_id, path from audit.file where feed = 'weblogs'\"",
        )
    if int(number) > file["line_count"]:
        raise WarehouseError(
            f"Line {number} of {file['path']} (file {file['file_id']}) is not loaded: it had {file['line_count']:,}.",
            hint="To load lines that were added since: `dwh run weblogs`.",
        )
    return file, int(number)


def _row(connection: psycopg.Connection, file_id: int, line: int) -> Row:
    return _one(
        connection,
        """
        select
            weblog.requested_at, host(weblog.ip_address) as ip_address, client_host.client_host, weblog.country,
            country.name as country_name, weblog.status_code, weblog.response_bytes,
            weblog.request_key, request.request, request.action, request.product_id,
            weblog.web_user_key, web_user.user_name, weblog.user_agent_key, user_agent.user_agent, weblog.device_key,
            device.family as device, weblog.referer_key, referer.referer, weblog.traffic_source_key,
            traffic_source.name as traffic_source, traffic_source.medium as traffic_medium,
            host.host, weblog.request_seconds, weblog.request_bytes, weblog.is_tls,
            weblog.tableoid::regclass::text as partition, weblog.run_id
        from dwh.fact_weblog as weblog
        left join dwh.dim_country as country using (country)
        left join dwh.dim_request as request using (request_key)
        left join dwh.dim_web_user as web_user using (web_user_key)
        left join dwh.dim_user_agent as user_agent using (user_agent_key)
        left join dwh.dim_device as device on device.device_key = weblog.device_key
        left join dwh.dim_referer as referer using (referer_key)
        left join dwh.dim_host as host on host.host_key = weblog.host_key
        left join dwh.dim_client_host as client_host on client_host.client_host_key = weblog.client_host_key
        left join dwh.dim_traffic_source as traffic_source
            on traffic_source.traffic_source_key = weblog.traffic_source_key
        where weblog.file_id = %s and weblog.line_number = %s
        """,
        file_id,
        line,
    )


def _quarantine(connection: psycopg.Connection, file_id: int, line: int) -> Row:
    return _one(
        connection,
        """
        select rules, reason, byte_offset, raw_text, resolved_at, resolution, run_id
        from audit.quarantine where file_id = %s and line_number = %s order by quarantine_id desc limit 1
        """,
        file_id,
        line,
    )


def _part(connection: psycopg.Connection, file: Row, line: int) -> tuple[int, int]:
    """Return first line and byte offset of the part of the file that contains the line."""
    part = _one(
        connection,
        """
        select first_line, byte_offset from audit.file_part
        where file_id = %s and first_line <= %s order by first_line desc limit 1
        """,
        file["file_id"],
        line,
    )
    return (part["first_line"], part["byte_offset"]) if part else (1, 0)


def _one(connection: psycopg.Connection, query: str, *values: object) -> Row:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchone() or {}


def _raw_line(
    settings: Settings, file: Row, part: tuple[int, int], line: int, parser: BlockParser
) -> tuple[int | None, bytes | None, Location | None, str | None]:
    """Find a line in its file, and prepare the parser for it.

    Returns its byte offset (decompressed), the raw line and the file's location; and the reason if it is not found.
    """
    with located(settings, file["path"]) as location:
        try:
            if not _has_beginning(location, file):
                # The file was rotated or compressed since: look for one with the same first bytes.
                others = (other.location for other in discover(settings).files)
                rotated = next((other for other in others if _has_beginning(other, file)), None)
                if rotated is None:
                    gone = f"{location} {'begins otherwise now' if location.exists() else 'is gone'}"
                    fault = f"{gone}: the file that the line was read from is not in the lake."
                    return None, None, None, fault
                location = rotated
            first, offset = part
            if offset == 0:
                with ContentReader(location) as content:
                    offset = bytes_before_lines(content)
            with ContentReader(location) as content:
                content.skip_to(offset)
                found_line = _nth_line(content, line - first)
                if found_line is None:
                    why = f"it {content.fault or 'is shorter than it was'}"
                    return None, None, location, f"{location} has no line {line} any more: {why}."
                skipped, raw = found_line
                parser.resume(location, offset + skipped)
                return offset + skipped, raw, location, None
        except OSError as error:
            return None, None, location, f"{location} cannot be read: {error.strerror}."


def _has_beginning(location: Location, file: Row) -> bool:
    if not location.is_file() or not file["head_bytes"]:
        return False
    with ContentReader(location) as content:
        return fingerprint(content.read(file["head_bytes"])) == str(file["head_hash"])


def _nth_line(content: ContentReader, number: int) -> tuple[int, bytes] | None:
    """Return the number of bytes before the line, and the line without its end, cut to _SHOWN_BYTES."""
    before, raw, inside = 0, b"", False
    while piece := content.read(_READ):
        start = 0
        while number and (end := piece.find(b"\n", start)) >= 0:
            number, start = number - 1, end + 1
        before += start if not inside else 0
        if number:
            before += len(piece) - start
            continue
        inside = True
        rest, ended, _ = piece[start:].partition(b"\n")
        raw += rest[: _SHOWN_BYTES - len(raw)]
        if ended:
            return before, raw.removesuffix(b"\r")
    return (before, raw) if inside and raw else None


def _contradiction(raw: bytes, row: Row, quarantine: Row, parser: BlockParser) -> str | None:
    """Return why the line cannot be the one that was loaded; None if it can be."""
    changed = "The file has changed since: this line is not the one that was loaded."
    if row:
        if len(raw) >= _SHOWN_BYTES:
            return None
        stored = (
            int((row["requested_at"] - _EPOCH).total_seconds()),
            row["status_code"],
            row["response_bytes"],
            row["ip_address"] or row["client_host"],
        )
        return None if _values(raw, parser) == stored else changed
    waiting = quarantine and quarantine["resolved_at"] is None
    if waiting and fallback.printable(raw)[:1000] != quarantine["raw_text"][:1000]:
        return changed
    return None


def _values(raw: bytes, parser: BlockParser) -> tuple[int, int, int, str] | None:
    """Parse seconds since 1970, status, size and visitor of a line; None if it cannot be parsed."""
    buffer = np.frombuffer(raw + b"\n" + bytes(PADDING), np.uint8)
    parsed = parser.parse(buffer, len(raw) + 1, AddressReader())
    if not len(parsed.columns.line):
        return None
    columns = parsed.columns
    (visitor,) = parsed.visitors()
    return int(columns.seconds[0]), int(columns.status[0]), int(columns.size[0]), visitor


def _explain_country(connection: psycopg.Connection, settings: Settings, row: Row) -> str:
    """Explain the country of the address by today's GeoIP database, and by the one that it was loaded with."""
    loaded = _one(
        connection,
        """
        select concat_ws(' ', geoip_database, geoip_built_at::date) as database from (
            select geoip_database, geoip_built_at, classified_at as at from audit.weblog_month
            where request_month = date_trunc('month', %s at time zone 'UTC')::date
            union all
            select geoip_database, geoip_built_at, loaded_at from audit.load where run_id = %s and rows_inserted > 0
        ) as lookup order by at desc limit 1
        """,
        row["requested_at"],
        row["run_id"],
    )
    if row["ip_address"] is None:
        return f"The log has a host name, {row['client_host']}, in place of an address."
    then = f"{loaded.get('database') or 'The GeoIP database'} had country {row['country']}"
    path = geoip.path_of(settings)
    try:
        now = geoip.look_up(path, str(row["ip_address"]))
    except geoip.GeoIpError:
        return f"{then} when the line was loaded; there is no such database now."
    now_has = f"{now.database} has {row['ip_address']} in network {now.network}, country {now.country}"
    if now.country == row["country"]:
        return f"{now_has}."
    return f"{then} when the line was loaded; {now_has}. `dwh run reclassify` moves such requests."
