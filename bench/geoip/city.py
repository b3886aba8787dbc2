"""Generate a GeoIP file as large as a City database: three million networks, of fifty thousand cities."""

from pathlib import Path

import numpy as np
from mmdb_writer import Encoder

from generators.geoip import countries
from warehouse.geoip.tree import Nodes

# Networks of /22 in all of IPv4, of which some are divided into networks of /26.
_DEPTH, _INNER = 21, 4
_MARKER = b"\xab\xcd\xefMaxMind.com"
_LANGUAGES = ("de", "en", "es", "fr", "ja", "pt-BR", "ru", "zh-CN")
_BUILD_EPOCH = 1_793_836_800


def write_city(path: Path, *, cities: int = 50_000, divided: int = 80_000, seed: int = 7) -> int:
    """Write the file; returns the number of its IPv4 networks."""
    random = np.random.default_rng(seed)
    encoder = Encoder(cache=True, float_type="f64")
    offsets = np.array(_records(encoder, cities, random), np.int64)
    # A path of 96 zero bits leads to the IPv4 networks, as in real files.
    above, inner = 96, 2**_DEPTH - 1
    leaves = 2**_DEPTH
    chosen = np.sort(random.choice(leaves, divided, replace=False))
    below = 2**_INNER - 1
    node_count = above + inner + divided * below
    nothing = node_count
    tree = np.full((node_count, 2), nothing, np.int64)
    tree[:above, 0] = np.arange(1, above + 1)
    numbers = np.arange(inner)
    children = np.stack([2 * numbers + 1, 2 * numbers + 2], axis=1)
    is_leaf = children >= inner

    def records(count: int) -> Nodes:
        # Neighbouring networks are mostly in one city; some have no record.
        city = np.repeat(random.integers(0, cities, count // 4 + 1), 4)[:count]
        value = node_count + 16 + offsets[city]
        found: Nodes = np.where(random.random(count) < 0.05, nothing, value)
        return found

    of_leaf = records(leaves)
    first_below = above + inner
    of_leaf[chosen] = first_below + np.arange(divided) * below
    children = np.where(is_leaf, of_leaf[np.clip(children - inner, 0, leaves - 1)], children + above)
    tree[above : above + inner] = children
    small = np.arange(below)
    template = np.stack([2 * small + 1, 2 * small + 2], axis=1)
    ends = template >= below
    block = first_below + np.arange(divided)[:, None, None] * below + template
    block = np.where(
        ends,
        records(divided * 2**_INNER)
        .reshape(divided, 1, -1)
        .repeat(below, 1)[:, small[:, None], np.clip(template - below, 0, 2**_INNER - 1)],
        block,
    )
    tree[first_below:] = block.reshape(-1, 2)
    encoder.cache = False
    metadata = {
        "node_count": node_count,
        "record_size": 32,
        "ip_version": 6,
        "database_type": "Bench-City",
        "languages": list(_LANGUAGES),
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": _BUILD_EPOCH,
        "description": {"en": "made by a generator"},
    }
    with path.open("wb") as file:
        file.write(tree.astype(">u4").tobytes() + bytes(16))
        file.write(b"".join(encoder.data_list) + _MARKER + encoder.encode_meta(metadata))
    return int(leaves - divided + divided * 2**_INNER)


def _records(encoder: Encoder, count: int, random: np.random.Generator) -> list[int]:
    known = countries()
    offsets = []
    for number, place in enumerate(random.integers(0, len(known), count).tolist()):
        country = {
            "geoname_id": 3_000_000 + place,
            "iso_code": known[place].code,
            "names": dict.fromkeys(_LANGUAGES, known[place].code),
        }
        record = {
            "city": {"geoname_id": number, "names": dict.fromkeys(_LANGUAGES, f"City {number}")},
            "continent": {"code": "XX", "names": dict.fromkeys(_LANGUAGES, "Continent")},
            "country": country,
            "location": {
                "accuracy_radius": 20,
                "latitude": number / 7,
                "longitude": number / 3,
                "time_zone": "UTC",
            },
            "postal": {"code": str(number % 99_999)},
            "registered_country": country,
            "subdivisions": [
                {"geoname_id": number % 3000, "iso_code": "S", "names": {"en": f"State {number % 3000}"}}
            ],
        }
        offsets.append(encoder.encode(record, return_offset=True))
    return offsets
