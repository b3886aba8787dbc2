"""A small GeoIP database in MaxMind format, of networks that the web log generator draws addresses from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from mmdb_writer import MMDBWriter
from netaddr import IPNetwork, IPSet  # type: ignore[import-untyped]

from generators.shop.geography import COUNTRIES

# Share of the visits from the countries of the shop's customers; the other countries share the rest.
_HOME_SHARE = 0.85
_ABROAD = [
    "US",
    "GB",
    "CA",
    "DE",
    "FR",
    "IT",
    "NL",
    "BE",
    "CH",
    "AT",
    "SE",
    "NO",
    "DK",
    "FI",
    "IE",
    "PL",
    "CZ",
    "SK",
    "HU",
    "RO",
    "BG",
    "GR",
    "TR",
    "RU",
    "UA",
    "BY",
    "LT",
    "LV",
    "EE",
    "HR",
    "RS",
    "SI",
    "BA",
    "MK",
    "AL",
    "ME",
    "MD",
    "GE",
    "AM",
    "AZ",
    "KZ",
    "UZ",
    "KG",
    "TJ",
    "TM",
    "MN",
    "CN",
    "JP",
    "KR",
    "TW",
    "HK",
    "MO",
    "SG",
    "MY",
    "TH",
    "VN",
    "PH",
    "ID",
    "KH",
    "LA",
    "MM",
    "BD",
    "IN",
    "PK",
    "LK",
    "NP",
    "BT",
    "MV",
    "AF",
    "IR",
    "IQ",
    "SY",
    "LB",
    "JO",
    "IL",
    "PS",
    "SA",
    "AE",
    "QA",
    "KW",
    "BH",
    "OM",
    "YE",
    "EG",
    "LY",
    "TN",
    "DZ",
    "MA",
    "SD",
    "SS",
    "ET",
    "ER",
    "DJ",
    "SO",
    "KE",
    "UG",
    "TZ",
    "RW",
    "BI",
    "CD",
    "CG",
    "GA",
    "GQ",
    "CM",
    "CF",
    "TD",
    "NE",
    "NG",
    "BJ",
    "TG",
    "GH",
    "CI",
    "BF",
    "ML",
    "SN",
    "GM",
    "GW",
    "GN",
    "SL",
    "LR",
    "CV",
    "MR",
    "ST",
    "AO",
    "ZM",
    "ZW",
    "MW",
    "MZ",
    "MG",
    "MU",
    "SC",
    "KM",
    "RE",
    "YT",
    "NA",
    "BW",
    "ZA",
    "LS",
    "SZ",
    "AU",
    "NZ",
    "PG",
    "FJ",
    "SB",
    "VU",
    "NC",
    "PF",
    "WS",
    "TO",
    "KI",
    "TV",
    "NR",
    "PW",
    "FM",
    "MH",
    "GU",
    "MP",
    "AS",
    "CK",
    "NU",
    "TK",
    "WF",
    "BO",
    "PY",
    "EC",
    "PE",
    "VE",
    "GY",
    "SR",
    "GF",
    "PA",
    "CR",
    "NI",
    "HN",
    "SV",
    "GT",
    "BZ",
    "CU",
    "DO",
    "HT",
    "JM",
    "BS",
    "BB",
    "TT",
    "GD",
    "VC",
    "LC",
    "DM",
    "AG",
    "KN",
    "AI",
    "MS",
    "VG",
    "VI",
    "PR",
    "TC",
    "KY",
    "BM",
    "AW",
    "CW",
    "SX",
    "BQ",
    "GP",
    "MQ",
    "MF",
    "BL",
    "GL",
    "FO",
    "IS",
    "GI",
    "MT",
    "CY",
    "AD",
    "MC",
    "SM",
    "VA",
    "LI",
    "LU",
    "IM",
    "JE",
    "GG",
    "AX",
    "SJ",
    "FK",
    "SH",
    "EH",
]
# First octets of which no /16 is private, shared or reserved.
_FIRST_OCTETS = [n for n in range(2, 224) if n not in (10, 100, 127, 169, 172, 192, 198, 203)]


@dataclass(frozen=True)
class Country:
    """A country, its share of the visits, and its networks: IPv4 /16s as numbers, and one IPv6 /32."""

    code: str
    share: float
    v4_networks: tuple[int, ...]
    v6_network: int


@cache
def countries() -> Sequence[Country]:
    """All countries with networks; the same on every call and machine."""
    shares = {code: _HOME_SHARE * share for code, (share, *_) in COUNTRIES.items()}
    abroad = [code for code in _ABROAD if code not in shares]
    ranks = 1.0 / np.arange(1, len(abroad) + 1)
    shares |= dict(zip(abroad, ((1 - _HOME_SHARE) * ranks / ranks.sum()).tolist(), strict=True))
    networks = iter([first << 24 | second << 16 for second in range(256) for first in _FIRST_OCTETS])
    return tuple(
        Country(
            code,
            share,
            tuple(next(networks) for _ in range(max(1, round(share * 400)))),
            (0x2A00 << 112) | (number << 96),
        )
        for number, (code, share) in enumerate(shares.items(), start=1)
    )


def write(path: Path) -> int:
    """Write the database to `path`, in the layout of GeoLite2 Country; returns the number of its networks."""
    writer = MMDBWriter(
        ip_version=6,
        ipv4_compatible=True,
        database_type="Demo-Country",
        languages=["en"],
        description="Made-up networks for made-up web logs",
    )
    count = 0
    for country in countries():
        networks = [f"{n >> 24}.{n >> 16 & 255}.0.0/16" for n in country.v4_networks]
        networks.append(f"{country.v6_network >> 112:x}:{country.v6_network >> 96 & 0xFFFF:x}::/32")
        writer.insert_network(
            IPSet([IPNetwork(network) for network in networks]), {"country": {"iso_code": country.code}}
        )
        count += len(networks)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    writer.to_db_file(str(draft))
    draft.replace(path)
    return count
