"""Countries of IP addresses, read from any country or city file in MaxMind's format into sorted arrays."""

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Final

import geoip2.database
import geoip2.errors
import maxminddb
import numpy as np
import numpy.typing as npt

from warehouse.errors import SettingsError
from warehouse.settings import Settings

UNKNOWN: Final = "ZZ"
# Below DWH_HOME: the generated demo file, and the file that `dwh geoip update` downloads.
DEMO, FETCHED = Path("geoip", "demo.mmdb"), Path("geoip", "country.mmdb")
HINT = (
    "Download one with `dwh geoip update`, set DWH_GEOIP_PATH to a GeoLite2 or DB-IP file (Country or City, .mmdb), "
    "or run `dwh generate weblogs`, which makes one for the generated addresses."
)

Countries = npt.NDArray[np.int16]
Numbers = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_BLOCKS = 1 << 24
_MIXED = -1


class GeoIpError(SettingsError):
    """The GeoIP file is missing, damaged, or has no countries."""


@dataclass(frozen=True)
class GeoIp:
    """A country for every address: `codes[index]`, where index 0 is the unknown country."""

    codes: tuple[str, ...]
    names: dict[str, str]
    database_type: str
    build_epoch: int
    v4_starts: npt.NDArray[np.uint32]
    v4_countries: Countries
    # Country of each /24; -1 where it has several. Most lookups end here.
    v4_blocks: Countries
    v6_high: Numbers
    v6_low: Numbers
    v6_countries: Countries
    # IPv6 prefixes that embed the IPv4 networks, as ::ffff:0:0/96: (prefix, length).
    v4_within_v6: tuple[tuple[int, int], ...]

    @property
    def built_at(self) -> datetime:
        """When the file was made (UTC)."""
        return datetime.fromtimestamp(self.build_epoch, UTC)

    def __str__(self) -> str:
        return _title(self.database_type, self.build_epoch)

    def country_of(self, address: str) -> str:
        """Country code of one address."""
        number = int(ip_address(address))
        if ":" not in address:
            return self.codes[int(self.of_v4(np.array([number], np.uint32))[0])]
        high, low = np.array([number >> 64], np.uint64), np.array([number & (2**64 - 1)], np.uint64)
        return self.codes[int(self.of_v6(high, low)[0])]

    def of_v4(self, addresses: npt.NDArray[np.uint32]) -> Countries:
        """Country index of each IPv4 address."""
        found: Countries = self.v4_blocks[addresses >> np.uint32(8)]
        mixed = np.flatnonzero(found == _MIXED)
        if len(mixed):
            at = np.searchsorted(self.v4_starts, addresses[mixed], side="right") - 1
            found[mixed] = self.v4_countries[at]
        return found

    def of_v6(self, high: Numbers, low: Numbers) -> Countries:
        """Country index of each IPv6 address, given as two halves."""
        at = np.searchsorted(self.v6_high, high, side="right") - 1
        back = np.flatnonzero((self.v6_high[at] == high) & (self.v6_low[at] > low))
        while len(back):
            at[back] -= 1
            back = back[(self.v6_high[at[back]] == high[back]) & (self.v6_low[at[back]] > low[back])]
        found: Countries = self.v6_countries[at]
        for prefix, length in self.v4_within_v6:
            inside, v4 = _embedded(high, low, prefix, length)
            found[inside] = self.of_v4(v4[inside])
        return found


def path_of(settings: Settings) -> Path:
    """Path of the GeoIP file: DWH_GEOIP_PATH, else the downloaded file, else the generated one."""
    fetched = settings.home / FETCHED
    return settings.geoip_path or (fetched if fetched.exists() else settings.home / DEMO)


def read(path: Path) -> GeoIp:
    """Read the file at `path` completely; a country database takes well under a second.

    Raises:
        GeoIpError: it is missing or damaged, or has no countries.
    """
    if not path.is_file():
        raise GeoIpError(f"There is no GeoIP file at {path}.", hint=HINT)
    try:
        # Read once: an update may replace the file at any moment.
        content = path.read_bytes()
        with maxminddb.open_database(io.BytesIO(content), maxminddb.MODE_FD) as reader:
            return _read(path, content, reader)
    except (maxminddb.InvalidDatabaseError, OSError, ValueError, EOFError) as error:
        raise GeoIpError(f"The GeoIP file {path} cannot be read: {error}.", hint=HINT) from None


@dataclass(frozen=True)
class Lookup:
    """What a GeoIP file says of one address: its country, and the network that the record is about."""

    database: str
    country: str
    network: IPv4Network | IPv6Network | None


def look_up(path: Path, address: str) -> Lookup:
    """Look up one address in the country or city file at `path`, without reading the rest of it.

    Raises:
        GeoIpError: it is missing or damaged, or has no countries.
    """
    try:
        with geoip2.database.Reader(path) as reader:
            meta = reader.metadata()
            database = _title(meta.database_type, meta.build_epoch)
            try:
                found = (reader.city if "City" in meta.database_type else reader.country)(address)
            except geoip2.errors.AddressNotFoundError as error:
                return Lookup(database, UNKNOWN, error.network)
            return Lookup(database, found.country.iso_code or UNKNOWN, found.traits.network)
    except (maxminddb.InvalidDatabaseError, OSError, TypeError, ValueError) as error:
        raise GeoIpError(f"The GeoIP file {path} cannot be read: {error}.", hint=HINT) from None


def _title(database_type: str, build_epoch: int) -> str:
    return f"{database_type} {datetime.fromtimestamp(build_epoch, UTC):%Y-%m-%d}"


def _read(path: Path, content: bytes, reader: maxminddb.Reader) -> GeoIp:
    meta = reader.metadata()
    tree = _Tree(content, meta.node_count, meta.record_size)
    root_of_v4 = tree.descend_zeros(96) if meta.ip_version == 6 else 0
    v4_starts, _, v4_records, _ = tree.leaves(root_of_v4, 32, None)
    if meta.ip_version == 6:
        v6_low, v6_high, v6_records, aliases = tree.leaves(0, 128, root_of_v4)
    else:
        v6_low, v6_high, v6_records, aliases = (
            np.zeros(1, np.uint64),
            np.zeros(1, np.uint64),
            np.zeros(1, np.int64),
            (),
        )
    codes = {UNKNOWN: 0}
    names: dict[str, str] = {}
    countries_of_records: dict[int, int] = {0: 0}
    for starts, highs, records in ((v4_starts, None, v4_records), (v6_low, v6_high, v6_records)):
        distinct, first = np.unique(records, return_index=True)
        for record, place in zip(distinct.tolist(), first.tolist(), strict=True):
            if record not in countries_of_records:
                # All networks with this record have the same country: look up one address.
                low = int(starts[place])
                address = IPv4Address(low) if highs is None else IPv6Address(int(highs[place]) << 64 | low)
                code, name = _country(reader.get(address))
                countries_of_records[record] = codes.setdefault(code, len(codes))
                names.setdefault(code, name)
    if len(codes) == 1:
        raise GeoIpError(
            f"The GeoIP file {path} is a {meta.database_type} file: it has no countries.", hint=HINT
        )
    v4_countries = _translate(v4_records, countries_of_records)
    v6_countries = _translate(v6_records, countries_of_records)
    starts4 = v4_starts.astype(np.uint32)
    return GeoIp(
        codes=tuple(codes),
        names=names,
        database_type=meta.database_type,
        build_epoch=meta.build_epoch,
        v4_starts=starts4,
        v4_countries=v4_countries,
        v4_blocks=_blocks(starts4, v4_countries),
        v6_high=v6_high,
        v6_low=v6_low,
        v6_countries=v6_countries,
        v4_within_v6=aliases,
    )


def _country(record: Any) -> tuple[str, str]:
    """Code and name in a record: where the address is, never where its network is registered."""
    country = record.get("country") if isinstance(record, dict) else None
    if isinstance(country, dict):
        code, name = country.get("iso_code"), (country.get("names") or {}).get("en")
    else:
        code, name = country, None
    if not isinstance(code, str) or not re.fullmatch("[A-Z0-9]{2}", code):
        return UNKNOWN, "Unknown"
    return code, str(name or code)


def _translate(records: npt.NDArray[np.int64], countries: dict[int, int]) -> Countries:
    distinct, inverse = np.unique(records, return_inverse=True)
    return np.array([countries[record] for record in distinct.tolist()], np.int16)[inverse]


def _blocks(starts: npt.NDArray[np.uint32], countries: Countries) -> Countries:
    # Number of /24 networks that begin in each network.
    begin = (starts.astype(np.int64) + 255) >> 8
    blocks: Countries = np.repeat(countries, np.diff(begin, append=_BLOCKS))
    inner = np.flatnonzero(starts & np.uint32(255))
    blocks[starts[inner] >> np.uint32(8)] = _MIXED
    return blocks


def _embedded(high: Numbers, low: Numbers, prefix: int, length: int) -> tuple[Mask, npt.NDArray[np.uint32]]:
    """Which addresses have `prefix`, and the 32 bits that follow it in each."""
    mask = ((1 << length) - 1) << (128 - length)
    inside = (high & np.uint64(mask >> 64)) == np.uint64(prefix >> 64)
    inside &= (low & np.uint64(mask & (2**64 - 1))) == np.uint64(prefix & (2**64 - 1))
    if length >= 64:
        return inside, ((low >> np.uint64(96 - length)) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    if length <= 32:
        return inside, ((high >> np.uint64(32 - length)) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    both = (high << np.uint64(length - 32)) | (low >> np.uint64(96 - length))
    return inside, (both & np.uint64(0xFFFFFFFF)).astype(np.uint32)


class _Tree:
    """The binary search tree of a MaxMind file, walked a level at a time."""

    def __init__(self, content: bytes, node_count: int, record_size: int) -> None:
        size = node_count * record_size // 4
        raw = np.frombuffer(content, np.uint8, size).reshape(node_count, record_size // 4).astype(np.int64)
        if record_size == 24:
            left, right = (
                raw[:, 0] << 16 | raw[:, 1] << 8 | raw[:, 2],
                raw[:, 3] << 16 | raw[:, 4] << 8 | raw[:, 5],
            )
        elif record_size == 28:
            left = (raw[:, 3] >> 4) << 24 | raw[:, 0] << 16 | raw[:, 1] << 8 | raw[:, 2]
            right = (raw[:, 3] & 15) << 24 | raw[:, 4] << 16 | raw[:, 5] << 8 | raw[:, 6]
        else:
            left = raw[:, 0] << 24 | raw[:, 1] << 16 | raw[:, 2] << 8 | raw[:, 3]
            right = raw[:, 4] << 24 | raw[:, 5] << 16 | raw[:, 6] << 8 | raw[:, 7]
        self._children = (left, right)
        self._count = node_count

    def descend_zeros(self, bits: int) -> int:
        node = 0
        for _ in range(bits):
            if node >= self._count:
                break
            node = int(self._children[0][node])
        return node

    def leaves(
        self, root: int, bits: int, skip: int | None
    ) -> tuple[Numbers, Numbers, npt.NDArray[np.int64], tuple[tuple[int, int], ...]]:
        """Networks below `root` in order: low and high half of the first address, and record (0: none).

        Nodes below `skip` are not visited; its positions are returned as (prefix, length).
        """
        found: list[tuple[Numbers, Numbers, npt.NDArray[np.int64]]] = []
        skipped: list[tuple[int, int]] = []
        nodes = np.array([root], np.int64)
        low, high = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
        for depth in range(bits + 1):
            ended = nodes >= self._count
            if skip is not None and skip < self._count:
                ends_in_v4 = nodes == skip
                for place in np.flatnonzero(ends_in_v4).tolist():
                    skipped.append((int(high[place]) << 64 | int(low[place]), depth))
                nodes = np.where(ends_in_v4, self._count, nodes)
                ended |= ends_in_v4
            # A record equal to the node count means: no data.
            found.append((low[ended], high[ended], nodes[ended] - self._count))
            nodes, low, high = nodes[~ended], low[~ended], high[~ended]
            if not len(nodes):
                break
            bit = bits - 1 - depth
            low_bit, high_bit = np.uint64((1 << bit) & (2**64 - 1)), np.uint64((1 << bit) >> 64)
            nodes = np.concatenate([child[nodes] for child in self._children])
            low = np.concatenate([low, low | low_bit])
            high = np.concatenate([high, high | high_bit])
        lows, highs, records = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((lows, highs))
        return lows[order], highs[order], records[order], tuple(skipped)
