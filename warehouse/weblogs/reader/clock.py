"""Dates and time zones of log lines: few are distinct, so each is worked out once."""

import datetime
import re

import numpy as np

from warehouse.weblogs.reader.swar import Mask, Places, Words

MONTHS = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"),
        start=1,
    )
}
_EPOCH = datetime.date(1970, 1, 1).toordinal()
# Days of these years have their place in the aggregates; the compiled loops know them too.
FIRST_YEAR, LAST_YEAR = 1970, 2148
_ZONE = re.compile(rb"([+-])(\d\d)(\d\d)")
# PostgreSQL's own limit is 15:59; no place on earth is beyond 14:00.
_MAX_ZONE_HOURS = 15


def day_number(day: bytes, month: bytes, year: bytes) -> int | None:
    """Days since 1970-01-01 of a date as logs write it; None where no request can be of such a day."""
    if month not in MONTHS or not (day.isdigit() and year.isdigit()):
        return None
    if not FIRST_YEAR <= int(year) <= LAST_YEAR:
        return None
    try:
        return datetime.date(int(year), MONTHS[month], int(day)).toordinal() - _EPOCH
    except ValueError:
        return None


def zone_seconds(zone: bytes) -> int | None:
    """Seconds that a zone as +0530 is ahead of UTC; None where it is none."""
    match = _ZONE.fullmatch(zone)
    if match is None or int(match[2]) > _MAX_ZONE_HOURS or int(match[3]) > 59:
        return None
    seconds = int(match[2]) * 3600 + int(match[3]) * 60
    return -seconds if match[1] == b"-" else seconds


def days_since_epoch(day_and_month: Words, year: Words) -> tuple[Places, Mask]:
    """Day numbers of dates given as words ('17/May', '2015'), and whether the calendar has them."""
    count = len(day_and_month)
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, bool)
    # Logs are in order of time: a date is looked at where it changes.
    changed = np.empty(count, bool)
    changed[0] = True
    changed[1:] = (day_and_month[1:] != day_and_month[:-1]) | (year[1:] != year[:-1])
    heads = np.flatnonzero(changed)
    known: dict[tuple[int, int], int | None] = {}
    values = np.zeros(len(heads), np.int64)
    valid = np.ones(len(heads), bool)
    for index, key in enumerate(zip(day_and_month[heads].tolist(), year[heads].tolist(), strict=True)):
        if key not in known:
            text = key[0].to_bytes(6, "little")
            known[key] = day_number(text[:2], text[3:], key[1].to_bytes(4, "little"))
        found = known[key]
        valid[index] = found is not None
        values[index] = found or 0
    if len(heads) == 1:
        return np.full(count, values[0]), np.full(count, valid[0])
    lengths = np.diff(heads, append=count)
    return np.repeat(values, lengths), np.repeat(valid, lengths)


def offsets_of(zones: Words) -> tuple[Places, Mask]:
    """Seconds ahead of UTC of zones given as words ('+0530'), and whether they are zones."""
    if not len(zones):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    if (zones == zones[0]).all():
        distinct, inverse = zones[:1], np.zeros(len(zones), np.int64)
    else:
        distinct, inverse = np.unique(zones, return_inverse=True)
    offsets = [zone_seconds(zone.to_bytes(5, "little")) for zone in distinct.tolist()]
    values = np.array([offset or 0 for offset in offsets], np.int64)
    return values[inverse], np.array([offset is not None for offset in offsets])[inverse]
