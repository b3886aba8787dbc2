"""Look up the countries of IP addresses in any country or city file in MaxMind's format (.mmdb)."""

import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import product
from pathlib import Path
from string import ascii_uppercase, digits
from typing import Any, Final

import geoip2.database
import geoip2.errors
import maxminddb
import numpy as np
import numpy.typing as npt

from warehouse.errors import SettingsError
from warehouse.geoip.tree import Nodes, Numbers, Tree
from warehouse.settings import Settings

UNKNOWN: Final = "ZZ"
# All possible country codes, so that indexes do not depend on a file; index 0 is the unknown country.
CODES: Final = (
    UNKNOWN,
    *sorted({"".join(pair) for pair in product(ascii_uppercase + digits, repeat=2)} - {UNKNOWN}),
)
_INDEX: Final = {code: index for index, code in enumerate(CODES)}
# Below DWH_HOME: the generated demo file, and the file that `dwh geoip update` downloads.
DEMO, FETCHED = Path("geoip", "demo.mmdb"), Path("geoip", "country.mmdb")
HINT = (
    "Download one with `dwh geoip update`, set DWH_GEOIP_PATH to a GeoLite2 or DB-IP file (Country or City, .mmdb), "
    "or run `dwh generate weblogs`, which makes one for the generated addresses."
)

Countries = npt.NDArray[np.int16]

_BLOCKS = 1 << 24
# IPv6 networks of /64 in memory; each takes about 100 bytes.
_MAX_PREFIXES = 1_000_000
_PIECE = 1 << 26
# How many networks of 256 addresses that are divided are looked up at a time.
_DIVIDED_AT_ONCE = 4096


class GeoIpError(SettingsError):
    """The GeoIP file is missing, damaged, or has no countries."""


class GeoIp:
    """A country for every address, as an index of `CODES`.

    The file is read when the first address is looked up; only the records that addresses need are decoded. Results are
    kept in memory: for IPv4 by networks of 256 addresses, for IPv6 by networks of /64.
    """

    def __init__(self, path: Path, descriptor: int, metadata: Any) -> None:
        self._path, self._descriptor, self._metadata = path, descriptor, metadata
        # Closes the file with this object. The descriptor stays valid if an update replaces the file.
        weakref.finalize(self, os.close, descriptor)
        self.database_type: str = metadata.database_type
        self.build_epoch: int = metadata.build_epoch
        # Names of the countries that were looked up, by code.
        self.names: dict[str, str] = {UNKNOWN: "Unknown"}
        # For each network of 256 addresses: 0 if not looked up, 1 + country, or -1 - position in `_divided`. The system
        # allocates only pages of this array that are written.
        self._blocks = np.zeros(_BLOCKS, np.int32)
        self._divided: Countries = np.zeros((0, 256), np.int16)
        self._divided_count = 0
        # For each network of /64: 1 + country, or -1 if it is divided.
        self._prefixes: dict[int, int] = {}
        self._read: Tree | None = None
        self._of_records: dict[int, int] = {}
        self._of_places: dict[int, int] = {}

    @property
    def codes(self) -> tuple[str, ...]:
        """Country codes by index."""
        return CODES

    @property
    def built_at(self) -> datetime:
        """When the file was made (UTC)."""
        return datetime.fromtimestamp(self.build_epoch, UTC)

    def __str__(self) -> str:
        return _title(self.database_type, self.build_epoch)

    def country_of(self, address: str) -> str:
        """Look up the country code of one address."""
        number = int(ip_address(address))
        if ":" not in address:
            return CODES[int(self.of_v4(np.array([number], np.uint32))[0])]
        high, low = np.array([number >> 64], np.uint64), np.array([number & (2**64 - 1)], np.uint64)
        return CODES[int(self.of_v6(high, low)[0])]

    def of_v4(self, addresses: npt.NDArray[np.uint32]) -> Countries:
        """Look up the country index of each IPv4 address.

        Raises:
            GeoIpError: the file is damaged, or has no countries.
        """
        blocks = addresses >> np.uint32(8)
        entries = self._blocks[blocks]
        if (new := entries == 0).any():
            with self._explained():
                self._look_up_blocks(np.unique(blocks[new]))
            entries = self._blocks[blocks]
        countries: Countries = (entries - 1).astype(np.int16)
        divided = np.flatnonzero(entries < 0)
        if len(divided):
            countries[divided] = self._divided[-1 - entries[divided], addresses[divided] & np.uint32(255)]
        return countries

    def of_v6(self, high: Numbers, low: Numbers) -> Countries:
        """Look up the country index of each IPv6 address, given as two halves.

        Raises:
            GeoIpError: the file is damaged, or has no countries.
        """
        if not len(high):
            return np.zeros(0, np.int16)
        prefixes, place = np.unique(high, return_inverse=True)
        with self._explained():
            entries = self._look_up_prefixes(prefixes)[place]
            countries = (entries - 1).astype(np.int16)
            divided = np.flatnonzero(entries < 0)
            if len(divided):
                nodes = self._tree.walk(np.zeros(len(divided), np.int64), high[divided], 64)
                countries[divided] = self._countries(self._tree.walk(nodes, low[divided], 64))
        return countries

    def check(self) -> int:
        """Read every record of the file; returns the number of its countries.

        Raises:
            GeoIpError: the file is damaged, or has no countries.
        """
        with self._explained():
            return len(set(self._countries(self._tree.records()).tolist()) - {0})

    @property
    def _tree(self) -> Tree:
        if self._read is None:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            content = b"".join(iter(lambda: os.read(self._descriptor, _PIECE), b""))
            tree = self._read = Tree(content, self._metadata)
            # A sample of the records nearly always has a country; otherwise read all records.
            if not any(map(self._country, tree.sample().tolist())) and not any(
                map(self._country, tree.records().tolist())
            ):
                self._read = None
                raise GeoIpError(
                    f"The GeoIP file {self._path} is a {self.database_type} file: it has no countries.",
                    hint=HINT,
                )
        return self._read

    def _look_up_blocks(self, blocks: npt.NDArray[np.uint32]) -> None:
        tree = self._tree
        nodes = tree.walk(np.full(len(blocks), tree.root_of_v4), blocks.astype(np.uint64), 24)
        whole = tree.is_record(nodes)
        self._blocks[blocks[whole]] = 1 + self._countries(nodes[whole])
        inner, addresses = np.flatnonzero(~whole), np.arange(256, dtype=np.uint64)
        for start in range(0, len(inner), _DIVIDED_AT_ONCE):
            some = inner[start : start + _DIVIDED_AT_ONCE]
            ends = tree.walk(np.repeat(nodes[some], 256), np.tile(addresses, len(some)), 8)
            countries = self._countries(ends).reshape(-1, 256)
            # In a city file, the parts of a network may differ in city, but rarely in country.
            is_divided = (countries != countries[:, :1]).any(axis=1)
            self._blocks[blocks[some[~is_divided]]] = 1 + countries[~is_divided, 0].astype(np.int32)
            self._blocks[blocks[some[is_divided]]] = -1 - self._add_divided(countries[is_divided])

    def _add_divided(self, countries: Countries) -> npt.NDArray[np.int32]:
        """Store the countries of divided networks; returns the position of each in `_divided`."""
        first, after = self._divided_count, self._divided_count + len(countries)
        if after > len(self._divided):
            room = np.zeros((max(after, 2 * len(self._divided)), 256), np.int16)
            room[:first] = self._divided[:first]
            self._divided = room
        self._divided[first:after] = countries
        self._divided_count = after
        return np.arange(first, after, dtype=np.int32)

    def _look_up_prefixes(self, prefixes: Numbers) -> npt.NDArray[np.int32]:
        """Look up 1 + country of each network of /64; -1 if it is divided."""
        if len(self._prefixes) > _MAX_PREFIXES:
            self._prefixes.clear()
        new = np.array([prefix for prefix in prefixes.tolist() if prefix not in self._prefixes], np.uint64)
        if len(new):
            nodes = self._tree.walk(np.zeros(len(new), np.int64), new, 64)
            whole = self._tree.is_record(nodes)
            values = np.full(len(new), -1, np.int32)
            values[whole] = 1 + self._countries(nodes[whole])
            self._prefixes.update(zip(new.tolist(), values.tolist(), strict=True))
        return np.array([self._prefixes[prefix] for prefix in prefixes.tolist()], np.int32)

    def _countries(self, nodes: Nodes) -> Countries:
        """Look up the country of each record; each distinct one is read once."""
        distinct, place = np.unique(nodes, return_inverse=True)
        return np.array([self._country(node) for node in distinct.tolist()], np.int16)[place]

    def _country(self, node: int) -> int:
        country = self._of_records.get(node)
        if country is None:
            place = self._tree.country_place(node) if node > self._tree.node_count else None
            country = 0 if place is None else self._country_at(place)
            self._of_records[node] = country
        return country

    def _country_at(self, place: int) -> int:
        country = self._of_places.get(place)
        if country is None:
            code, name = _code_and_name(self._tree.decode(place))
            country = self._of_places[place] = _INDEX[code]
            self.names.setdefault(code, name)
        return country

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise GeoIpError(f"The GeoIP file {self._path} cannot be read: {error}.", hint=HINT) from None


# Exceptions that reading a damaged file can raise.
_DAMAGED: Final = (
    maxminddb.InvalidDatabaseError, OSError, ValueError, EOFError, LookupError, RecursionError, TypeError,
)  # fmt: skip


class UnreadableGeoIp(GeoIp):
    """Stands for a missing or unreadable file: a look-up fails or, if that is allowed, gives the unknown country.

    So a load without addresses to look up needs no file.
    """

    def __init__(self, error: GeoIpError, *, is_allowed: bool) -> None:
        self._error, self._is_allowed = error, is_allowed
        self.database_type, self.build_epoch, self.names = "none", 0, {UNKNOWN: "Unknown"}

    def __str__(self) -> str:
        return "no GeoIP file"

    def of_v4(self, addresses: npt.NDArray[np.uint32]) -> Countries:
        """Return the index of the unknown country for each address.

        Raises:
            GeoIpError: the settings do not allow a load without a file.
        """
        return self._unknown(len(addresses))

    def of_v6(self, high: Numbers, low: Numbers) -> Countries:
        """Return the index of the unknown country for each IPv6 address."""
        return self._unknown(len(high))

    def _unknown(self, addresses: int) -> Countries:
        if addresses and not self._is_allowed:
            raise self._error
        return np.zeros(addresses, np.int16)


def open_file(settings: Settings) -> GeoIp:
    """Open the GeoIP file of the settings; one that is missing or damaged fails when the first address is looked up."""
    path = path_of(settings)
    try:
        return read(path)
    except GeoIpError as error:
        is_missing = settings.geoip_path is None and not path.exists()
        if is_missing:
            error.hint += (
                " Or load with DWH_WITHOUT_GEOIP=unknown, and run `dwh run reclassify` once there is one."
            )
        return UnreadableGeoIp(error, is_allowed=is_missing and settings.without_geoip == "unknown")


def path_of(settings: Settings) -> Path:
    """Return the path of the GeoIP file: DWH_GEOIP_PATH, else the downloaded file, else the generated one."""
    fetched = settings.home / FETCHED
    return settings.geoip_path or (fetched if fetched.exists() else settings.home / DEMO)


def read(path: Path) -> GeoIp:
    """Open the file at `path`, which takes a millisecond, since only its metadata are read.

    Raises:
        GeoIpError: it is missing or damaged.
    """
    if not path.is_file():
        raise GeoIpError(f"There is no GeoIP file at {path}.", hint=HINT)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            metadata = _metadata(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    except _DAMAGED as error:
        raise GeoIpError(f"The GeoIP file {path} cannot be read: {error}.", hint=HINT) from None
    return GeoIp(path, descriptor, metadata)


def _metadata(descriptor: int) -> Any:
    # Open it by the descriptor, since an update may replace the file at any moment.
    with maxminddb.open_database(f"/dev/fd/{descriptor}", maxminddb.MODE_FILE) as reader:
        return reader.metadata()


@dataclass(frozen=True)
class Lookup:
    """Result of looking up one address: its country, and the network to which the record applies."""

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


def _code_and_name(country: Any) -> tuple[str, str]:
    """Return code and name of a record's country: that of the address, never that where its network is registered."""
    if isinstance(country, dict):
        code, name = country.get("iso_code"), (country.get("names") or {}).get("en")
    else:
        code, name = country, None
    if not isinstance(code, str) or not re.fullmatch("[A-Z0-9]{2}", code):
        return UNKNOWN, "Unknown"
    return code, str(name or code)
