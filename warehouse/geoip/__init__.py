"""Countries of IP addresses: read the GeoIP database, and download a newer one."""

from warehouse.geoip.database import (
    DEMO,
    FETCHED,
    UNKNOWN,
    GeoIp,
    GeoIpError,
    look_up,
    open_file,
    path_of,
    read,
)
from warehouse.geoip.download import GeoIpNotUpdated, LicenceRefused
from warehouse.geoip.newest import Update, update

__all__ = [
    "DEMO",
    "FETCHED",
    "UNKNOWN",
    "GeoIp",
    "GeoIpError",
    "GeoIpNotUpdated",
    "LicenceRefused",
    "Update",
    "look_up",
    "open_file",
    "path_of",
    "read",
    "update",
]
