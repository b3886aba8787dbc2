"""Download the newest GeoIP database, check it with known addresses, and replace the current file in one step."""

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
from warehouse.geoip.download import GeoIpFileNotFound, GeoIpNotUpdated, Place, download
from warehouse.settings import Settings

DBIP = "https://download.db-ip.com/free/dbip-country-lite-{month}.mmdb.gz"
GEOLITE = "https://download.maxmind.com/geoip/databases/GeoLite2-Country/download?suffix=tar.gz"
# For a licence key without account id.
GEOLITE_BY_KEY = (
    "https://download.maxmind.com/app/geoip_download"
    "?edition_id=GeoLite2-Country&suffix=tar.gz&license_key={license_key}"
)
# Addresses of universities, registries and carriers whose country has not changed for decades, and private ones.
KNOWN = {
    "8.8.8.8": "US", "4.2.2.2": "US", "18.7.22.69": "US", "131.111.8.46": "GB", "130.102.6.1": "AU",
    "133.11.0.1": "JP", "141.20.1.1": "DE", "166.111.8.28": "CN", "200.160.2.3": "BR", "157.92.1.1": "AR",
    "2001:4860:4860::8888": "US", "2001:12ff:0:2::3": "BR", "10.0.0.1": "ZZ", "127.0.0.1": "ZZ",
}  # fmt: skip
# Networks are sold now and then: accept a few changes, not many.
_MOST_WRONG = 3
_LARGEST = 2 << 30
_PIECE = 1 << 20
_LEFT_OVER_SECONDS = 86_400


@dataclass(frozen=True)
class Update:
    """Result of an update: `installed`, or `unchanged` if the current file is as new; times in UTC."""

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
            return f"{self.database} of {self.built_at:%Y-%m-%d} is already in use: {self.path}"
        instead = f" instead of {self.replaced}" if self.replaced else ""
        return f"{self.database} of {self.built_at:%Y-%m-%d}, {self.countries} countries, in {self.path}{instead}"


def update(
    settings: Settings,
    *,
    now: datetime | None = None,
    pauses: Sequence[float] = (1, 5, 20),
    timeout_seconds: float = 30,
) -> Update:
    """Download the newest database that the settings give access to, and put it in use.

    If anything fails, the current file stays in use; a reader gets either the old or the new file, never a mixture.

    Raises:
        LicenceRefused: the licence key is refused.
        GeoIpNotUpdated: it cannot be downloaded or written, or fails its checks.
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
            fetched_file = _checked(place, Path(draft.name))
            used = _in_use(path)
            is_newer = (
                used is None
                or used.database_type != fetched_file.database_type
                or used.built_at < fetched_file.built_at
            )
            if is_newer:
                _replace(draft, path)
    except OSError as error:
        raise GeoIpNotUpdated(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Free some space, or correct the permissions of its folder.",
        ) from None
    current = fetched_file if is_newer or used is None else used
    return Update(
        "installed" if is_newer else "unchanged",
        current.database_type,
        current.built_at,
        current.check(),
        path,
        str(place),
        size,
        str(used) if used else None,
    )


def _fetch_newest(
    settings: Settings, target: IO[bytes], now: datetime, pauses: Sequence[float], timeout_seconds: float
) -> tuple[Place, int]:
    """Download it; if files are named by month and this month's does not exist yet, download last month's."""
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
        except GeoIpFileNotFound:
            if place == places[-1]:
                raise
    raise AssertionError


def _unpack(place: Place, fetched: IO[bytes], draft: IO[bytes]) -> None:
    """Extract the database from the download: uncompressed, gzip, or MaxMind's tar archive."""
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
        raise _not_used(place, f"it cannot be unpacked: {error}") from None
    raise _not_used(place, "the archive holds no .mmdb file")


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
        found.check()
        wrong = [address for address, country in KNOWN.items() if found.country_of(address) != country]
    except GeoIpError as error:
        raise _not_used(place, error.what.replace(str(path), "it")) from None
    if len(wrong) > _MOST_WRONG:
        first = wrong[0]
        what = f"{len(wrong)} of {len(KNOWN)} known addresses have another country, "
        raise _not_used(
            place, what + f"as {first}: {found.country_of(first)}, which should be {KNOWN[first]}"
        )
    return found


def _not_used(place: Place, why: str) -> GeoIpNotUpdated:
    return GeoIpNotUpdated(
        f"What {place} sent is not used: {why}.",
        hint="The current GeoIP file stays in use. Run it again later, or check DWH_GEOIP_URL.",
    )


def _in_use(path: Path) -> GeoIp | None:
    try:
        return read(path)
    except GeoIpError:
        return None


@contextmanager
def _draft(path: Path) -> Iterator["tempfile._TemporaryFileWrapper[bytes]"]:
    """Create a temporary file beside `path`; it is deleted unless it has replaced `path`."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
    ) as draft:
        try:
            yield draft
        finally:
            Path(draft.name).unlink(missing_ok=True)


def _replace(draft: "tempfile._TemporaryFileWrapper[bytes]", path: Path) -> None:
    os.fsync(draft.fileno())
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(path)


def _clear_left_overs(path: Path) -> None:
    """Delete temporary files of killed updates."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
            left.unlink(missing_ok=True)
