"""A newer GeoIP database: fetched, checked with addresses that everybody knows, and swapped in at once."""

import gzip
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Literal

from warehouse.geoip.database import FETCHED, GeoIp, GeoIpError, read
from warehouse.geoip.download import GeoIpNotUpdated, NotThere, Place, download
from warehouse.settings import Settings

DBIP = "https://download.db-ip.com/free/dbip-country-lite-{month}.mmdb.gz"
GEOLITE = "https://download.maxmind.com/geoip/databases/GeoLite2-Country/download?suffix=tar.gz"
# For those who have a key and do not know their account.
GEOLITE_BY_KEY = (
    "https://download.maxmind.com/app/geoip_download"
    "?edition_id=GeoLite2-Country&suffix=tar.gz&license_key={license_key}"
)
# Universities, registries and carriers that have been where they are for decades, and networks that are nobody's.
KNOWN = {
    "8.8.8.8": "US", "4.2.2.2": "US", "18.7.22.69": "US", "131.111.8.46": "GB", "130.102.6.1": "AU",
    "133.11.0.1": "JP", "141.20.1.1": "DE", "166.111.8.28": "CN", "200.160.2.3": "BR", "157.92.1.1": "AR",
    "2001:4860:4860::8888": "US", "2001:12ff:0:2::3": "BR", "10.0.0.1": "ZZ", "127.0.0.1": "ZZ",
}  # fmt: skip
# Networks are sold now and then: a few may be elsewhere by now, not many.
_MOST_WRONG = 3
_LARGEST = 2 << 30
_PIECE = 1 << 20
_LEFT_OVER_SECONDS = 86_400


@dataclass(frozen=True)
class Update:
    """What an update did: `installed`, or `unchanged` where the one in use is as new; times in UTC."""

    status: Literal["installed", "unchanged"]
    database: str
    built_at: datetime
    countries: int
    path: Path
    fetched_from: str
    fetched_bytes: int
    replaced: str | None

    def __str__(self) -> str:
        if self.status == "unchanged":
            return f"{self.database} of {self.built_at:%Y-%m-%d} is in use already: {self.path}"
        instead = f" instead of {self.replaced}" if self.replaced else ""
        return f"{self.database} of {self.built_at:%Y-%m-%d}, {self.countries} countries, in {self.path}{instead}"


def update(
    settings: Settings,
    *,
    now: datetime | None = None,
    pauses: Sequence[float] = (1, 5, 20),
    timeout_seconds: float = 30,
) -> Update:
    """Fetch the newest database that the settings give access to, and put it where loads look for it.

    Whatever goes wrong, the file in use stays; readers have either the old one whole or the new one whole.

    Raises:
        LicenceRefused: the licence key is not taken.
        GeoIpNotUpdated: it cannot be fetched or written, or is no database of countries that one can believe.
    """
    path = (settings.geoip_path or settings.home / FETCHED).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_overs(path)
        with _draft(path) as fetched, _draft(path) as draft:
            place, size = _fetch_newest(
                settings, fetched.file, now or datetime.now(UTC), pauses, timeout_seconds
            )
            _unpack(place, fetched.file, draft.file)
            draft.flush()
            found = _checked(place, Path(draft.name))
            used = _in_use(path)
            is_newer = (
                used is None or used.database_type != found.database_type or used.built_at < found.built_at
            )
            if is_newer:
                _swap(draft, path)
    except OSError as error:
        raise GeoIpNotUpdated(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Make room, or mend its folder's rights.",
        ) from None
    told = found if is_newer or used is None else used
    return Update(
        "installed" if is_newer else "unchanged",
        told.database_type,
        told.built_at,
        len(told.codes) - 1,
        path,
        str(place),
        size,
        str(used) if used else None,
    )


def _fetch_newest(
    settings: Settings, target: IO[bytes], now: datetime, pauses: Sequence[float], timeout_seconds: float
) -> tuple[Place, int]:
    """Fetch it; where files are named by month and this month's is not there yet, the month's before."""
    key = settings.geoip_license_key.get_secret_value() if settings.geoip_license_key else None
    by_key = GEOLITE if settings.geoip_account_id else GEOLITE_BY_KEY
    template = settings.geoip_url or (by_key if key else DBIP)
    before = now.replace(day=1) - timedelta(days=1)
    places = [
        Place(template.replace("{month}", f"{month:%Y-%m}"), key, settings.geoip_account_id)
        for month in (now, before)
    ]
    for place in dict.fromkeys(places):
        try:
            return place, download(place, target, pauses=pauses, timeout_seconds=timeout_seconds)
        except NotThere:
            if place == places[-1]:
                raise
    raise AssertionError


def _unpack(place: Place, fetched: IO[bytes], draft: IO[bytes]) -> None:
    """The database out of what was fetched: as it is, compressed, or in MaxMind's archive."""
    fetched.seek(0)
    try:
        if fetched.read(2) != b"\x1f\x8b":
            fetched.seek(0)
            copyfileobj(fetched, draft)
            return
        fetched.seek(0)
        with gzip.GzipFile(fileobj=fetched) as plain:
            plain.seek(257)
            is_archive = plain.read(5) == b"ustar"
            plain.seek(0)
            if not is_archive:
                _copy(plain, draft)
                return
            with tarfile.open(fileobj=plain, mode="r:") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name.endswith(".mmdb") else None
                    if content is not None:
                        _copy(content, draft)
                        return
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise _unbelievable(place, f"it cannot be unpacked: {error}") from None
    raise _unbelievable(place, "the archive holds no .mmdb file")


def _copy(source: IO[bytes] | gzip.GzipFile, target: IO[bytes]) -> None:
    count = 0
    while piece := source.read(_PIECE):
        count += len(piece)
        if count > _LARGEST:
            raise EOFError(f"more than {_LARGEST >> 20} MB")
        target.write(piece)


def _checked(place: Place, path: Path) -> GeoIp:
    try:
        found = read(path)
    except GeoIpError as error:
        raise _unbelievable(place, error.what.replace(str(path), "it")) from None
    wrong = [address for address, country in KNOWN.items() if found.country_of(address) != country]
    if len(wrong) > _MOST_WRONG:
        first = wrong[0]
        what = f"{len(wrong)} of {len(KNOWN)} known addresses are elsewhere in it, "
        raise _unbelievable(
            place, what + f"as {first}: {found.country_of(first)}, which should be {KNOWN[first]}"
        )
    return found


def _unbelievable(place: Place, why: str) -> GeoIpNotUpdated:
    return GeoIpNotUpdated(
        f"What {place} sent is not used: {why}.",
        hint="The GeoIP file in use stays as it is. Run it again later, or check DWH_GEOIP_URL.",
    )


def _in_use(path: Path) -> GeoIp | None:
    try:
        return read(path)
    except GeoIpError:
        return None


@contextmanager
def _draft(path: Path) -> Iterator["tempfile._TemporaryFileWrapper[bytes]"]:
    """A file beside `path`, gone afterwards unless it took its place."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
    ) as draft:
        try:
            yield draft
        finally:
            Path(draft.name).unlink(missing_ok=True)


def _swap(draft: "tempfile._TemporaryFileWrapper[bytes]", path: Path) -> None:
    os.fsync(draft.fileno())
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(path)


def _clear_left_overs(path: Path) -> None:
    """Drafts of updates that were killed."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
            left.unlink(missing_ok=True)
