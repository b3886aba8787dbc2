"""Download a file by HTTP, completely or not at all, with retries and limits; errors contain no secrets."""

import base64
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import quote, urlsplit

from warehouse.errors import SettingsError, WarehouseError

_PIECE = 1 << 18
_LARGEST = 1 << 30
_LOCAL = ("localhost", "127.0.0.1", "::1")


class GeoIpNotUpdated(WarehouseError):
    """A GeoIP database could not be downloaded or failed its checks; the current one stays in use."""


class LicenceRefused(SettingsError):
    """The server refused the licence key: a retry would not help."""


class GeoIpFileNotFound(GeoIpNotUpdated):
    """The server has no such file."""


class _Interrupted(Exception):
    """Raised if a download ends early."""


@dataclass(frozen=True)
class Place:
    """Where to download a file: a URL, in which {license_key} stands for the key, and the account."""

    url: str
    license_key: str | None = field(default=None, repr=False)
    account_id: str | None = None

    def __str__(self) -> str:
        """The URL without user and query, which may be secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def check(self) -> None:
        """Raise SettingsError if the URL is not usable or would expose the key."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(
                "DWH_GEOIP_URL cannot be used: it is not an http:// or https:// URL, or contains a user.",
                hint="It should read https://host/path/file.mmdb.gz, with {month} or {license_key} where needed.",
            )
        if self.license_key and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise SettingsError(
                f"The licence key would be sent to {self} unencrypted.", hint="Use https in DWH_GEOIP_URL."
            )

    def request(self) -> urllib.request.Request:
        """Make the request. Only this server gets the key: redirected requests do not contain it."""
        url = self.url.replace("{license_key}", quote(self.license_key or "", safe=""))
        request = urllib.request.Request(url, headers={"User-Agent": "dwh"})
        if self.license_key and self.account_id:
            pair = base64.b64encode(f"{self.account_id}:{self.license_key}".encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {pair}")
        return request


def download(
    place: Place,
    target: IO[bytes],
    *,
    pauses: Sequence[float] = (1, 5, 20),
    timeout_seconds: float = 30,
    total_seconds: float = 600,
) -> int:
    """Download `place` into `target`; returns the number of bytes. Transient errors are retried after `pauses`, in s.

    Raises:
        LicenceRefused: the server refuses the key.
        GeoIpFileNotFound: the server has no such file.
        GeoIpNotUpdated: every attempt failed.
    """
    place.check()
    for pause in (*pauses, None):
        target.seek(0)
        target.truncate()
        try:
            return _fetch(place, target, timeout_seconds, time.monotonic() + total_seconds)
        except urllib.error.HTTPError as error:
            problem = _refused(place, error.code)
        except urllib.error.URLError as error:
            problem = GeoIpNotUpdated(f"{place} cannot be reached: {error.reason}.", hint=_AGAIN)
        except (_Interrupted, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            # Some exceptions contain the URL, and with it the key.
            reason = type(error).__name__ if isinstance(error, http.client.HTTPException) else str(error)
            problem = GeoIpNotUpdated(f"The download from {place} was interrupted: {reason}.", hint=_AGAIN)
        if pause is None or type(problem) is not GeoIpNotUpdated:
            break
        time.sleep(pause)
    raise problem from None


_AGAIN = "Run it again later; the current GeoIP file stays in use."


def _fetch(place: Place, target: IO[bytes], timeout_seconds: float, deadline: float) -> int:
    count = 0
    with urllib.request.urlopen(place.request(), timeout=timeout_seconds) as response:
        length = response.headers.get("Content-Length", "")
        while piece := _read(response):
            count += len(piece)
            if count > _LARGEST:
                raise _Interrupted(f"the file is larger than {_LARGEST >> 20} MB, which no GeoIP file is")
            if time.monotonic() > deadline:
                raise _Interrupted(f"only {count:,} bytes arrived before the timeout")
            target.write(piece)
    if length.isdigit() and count != int(length):
        raise _Interrupted(f"{count:,} of {int(length):,} bytes arrived")
    return count


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_PIECE)
    except OSError as error:
        raise _Interrupted(str(error)) from None


def _refused(place: Place, status: int) -> WarehouseError:
    if status in (401, 403):
        hint = "Correct DWH_GEOIP_LICENSE_KEY and DWH_GEOIP_ACCOUNT_ID, or unset both to download DB-IP Lite."
        return LicenceRefused(f"{place} refuses the licence key (HTTP {status}).", hint=hint)
    if status in (404, 410):
        return GeoIpFileNotFound(
            f"There is no file at {place} (HTTP {status}).", hint="Is DWH_GEOIP_URL correct?"
        )
    return GeoIpNotUpdated(f"{place} answers with HTTP {status}.", hint=_AGAIN)
