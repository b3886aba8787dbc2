"""A file over HTTP, whole or not at all: with retries, limits, and no secret in what is said about it."""

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
    """A GeoIP database could not be fetched or is not what it should be; the one in use stays."""


class LicenceRefused(SettingsError):
    """The server turned the licence key away: trying again would not help."""


class NotThere(GeoIpNotUpdated):
    """The server has no such file."""


class _BrokenOff(Exception):
    """A download that ended before its end."""


@dataclass(frozen=True)
class Place:
    """Where a file is: a URL, in which {license_key} stands for the key, and who asks."""

    url: str
    license_key: str | None = field(default=None, repr=False)
    account_id: str | None = None

    def __str__(self) -> str:
        """As it may be shown: neither user nor query, which may be secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def check(self) -> None:
        """Raises SettingsError where the URL cannot be used, or would give the key away."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(
                "DWH_GEOIP_URL cannot be used: it is no http:// or https:// URL, or has a user in it.",
                hint="It should read https://host/path/file.mmdb.gz, with {month} or {license_key} where needed.",
            )
        if self.license_key and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise SettingsError(
                f"The licence key would go to {self} in the clear.", hint="Use https in DWH_GEOIP_URL."
            )

    def request(self) -> urllib.request.Request:
        """What is asked. The key goes to this server alone: redirects do not carry it on."""
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
    """Fetch `place` into `target`; bytes fetched. What may pass is tried again after each of `pauses` (seconds).

    Raises:
        LicenceRefused: the server wants another key.
        NotThere: it has no such file.
        GeoIpNotUpdated: it could not be reached, or broke off, every time.
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
        except (_BrokenOff, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            # Some exceptions tell the URL, and with it the key.
            said = type(error).__name__ if isinstance(error, http.client.HTTPException) else str(error)
            problem = GeoIpNotUpdated(f"{place} broke off: {said}.", hint=_AGAIN)
        if pause is None or type(problem) is not GeoIpNotUpdated:
            break
        time.sleep(pause)
    raise problem from None


_AGAIN = "Run it again later; the GeoIP file in use stays as it is."


def _fetch(place: Place, target: IO[bytes], timeout_seconds: float, deadline: float) -> int:
    count = 0
    with urllib.request.urlopen(place.request(), timeout=timeout_seconds) as response:
        length = response.headers.get("Content-Length", "")
        while piece := _read(response):
            count += len(piece)
            if count > _LARGEST:
                raise _BrokenOff(f"it is larger than {_LARGEST >> 20} MB, which no such file is")
            if time.monotonic() > deadline:
                raise _BrokenOff(f"only {count:,} bytes came in all the time there was")
            target.write(piece)
    if length.isdigit() and count != int(length):
        raise _BrokenOff(f"{count:,} of {int(length):,} bytes came")
    return count


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_PIECE)
    except OSError as error:
        raise _BrokenOff(str(error)) from None


def _refused(place: Place, status: int) -> WarehouseError:
    if status in (401, 403):
        advice = "Mend DWH_GEOIP_LICENSE_KEY and DWH_GEOIP_ACCOUNT_ID; unset both, and DB-IP Lite is fetched."
        return LicenceRefused(f"{place} refuses the licence key (HTTP {status}).", hint=advice)
    if status in (404, 410):
        return NotThere(f"There is no file at {place} (HTTP {status}).", hint="Is DWH_GEOIP_URL right?")
    return GeoIpNotUpdated(f"{place} answers with HTTP {status}.", hint=_AGAIN)
