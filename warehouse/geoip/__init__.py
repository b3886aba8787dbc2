"""Countries of IP addresses: the database that tells them, and how a newer one is fetched."""

from warehouse.geoip.database import DEMO, FETCHED, UNKNOWN, GeoIp, GeoIpError, path_of, read
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
    "path_of",
    "read",
    "update",
]
