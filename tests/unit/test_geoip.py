"""Countries of addresses: many looked up at once agree with the file's own reader, whatever the file's layout."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import maxminddb
import numpy as np
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from generators import geoip as demo
from warehouse import geoip

COUNTRY = {
    "country": {"geoname_id": 3469034, "iso_code": "BR", "names": {"en": "Brazil"}},
    "registered_country": {"iso_code": "US"},
}
CITY = {
    "city": {"names": {"en": "Rosario"}},
    "country": {"iso_code": "AR", "names": {"en": "Argentina"}},
    "location": {"latitude": -32.9, "longitude": -60.6},
}
REGISTERED_ONLY = {"registered_country": {"iso_code": "US"}}


def write(path: Path, networks: dict[str, Any], **settings: Any) -> Path:
    writer = MMDBWriter(
        **{"ip_version": 6, "ipv4_compatible": True, "database_type": "Test-Country", **settings}
    )
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return path


def countries(read: geoip.GeoIp, *addresses: str) -> list[str]:
    v4 = np.array([int(IPv4Address(a)) for a in addresses if ":" not in a], np.uint32)
    v6 = [int(IPv6Address(a)) for a in addresses if ":" in a]
    high, low = (
        np.array([a >> 64 for a in v6], np.uint64),
        np.array([a & (2**64 - 1) for a in v6], np.uint64),
    )
    return [read.codes[c] for c in [*read.of_v4(v4).tolist(), *read.of_v6(high, low).tolist()]]


def test_country_is_where_the_address_is_not_where_its_network_is_registered(tmp_path: Path) -> None:
    networks = {
        "1.0.0.0/8": COUNTRY,
        "2.0.0.0/8": CITY,
        "3.0.0.0/8": REGISTERED_ONLY,
        "2001:db8::/32": COUNTRY,
    }
    read = geoip.read(write(tmp_path / "a.mmdb", networks))
    assert countries(read, "1.2.3.4", "2.2.3.4", "3.2.3.4", "2001:db8::1") == ["BR", "AR", "ZZ", "BR"]
    assert read.names["BR"] == "Brazil"


def test_unknown_and_private_addresses_are_nobodys(tmp_path: Path) -> None:
    read = geoip.read(write(tmp_path / "a.mmdb", {"1.0.0.0/8": COUNTRY}))
    assert (
        countries(read, "10.0.0.1", "127.0.0.1", "192.168.1.1", "255.255.255.255", "::1", "fe80::1")
        == ["ZZ"] * 6
    )


def test_networks_smaller_than_a_block_are_distinguished(tmp_path: Path) -> None:
    networks = {"1.0.0.0/25": COUNTRY, "1.0.0.128/30": CITY, "1.0.0.132/32": COUNTRY, "2001:db8::/127": CITY}
    read = geoip.read(write(tmp_path / "a.mmdb", networks))
    addresses = (
        "1.0.0.127",
        "1.0.0.128",
        "1.0.0.131",
        "1.0.0.132",
        "1.0.0.133",
        "2001:db8::1",
        "2001:db8::2",
    )
    assert countries(read, *addresses) == ["BR", "AR", "AR", "BR", "ZZ", "AR", "ZZ"]


def test_ipv4_only_file_serves_ipv4(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {"1.0.0.0/8": COUNTRY}, ip_version=4, ipv4_compatible=False)
    assert countries(geoip.read(path), "1.2.3.4", "2.2.3.4", "2001:db8::1") == ["BR", "ZZ", "ZZ"]


def test_plain_country_codes_are_understood(tmp_path: Path) -> None:
    read = geoip.read(
        write(tmp_path / "a.mmdb", {"1.0.0.0/8": {"country": "BR"}, "2.0.0.0/8": {"country": "Brazil"}})
    )
    assert countries(read, "1.2.3.4", "2.2.3.4") == ["BR", "ZZ"]


def with_alias(path: Path, prefix: str) -> Path:
    """Let an IPv6 network that is in the file lead to its IPv4 networks, as in the files of MaxMind."""
    with maxminddb.open_database(path) as reader:
        meta = reader.metadata()
    assert meta.record_size == 24
    content = bytearray(path.read_bytes())
    network = IPv6Network(prefix)

    def record(node: int, side: int) -> slice:
        return slice(node * 6 + 3 * side, node * 6 + 3 * side + 3)

    root_of_v4 = node = 0
    for _ in range(96):
        root_of_v4 = int.from_bytes(content[record(root_of_v4, 0)], "big")
    bits = [int(network.network_address) >> (127 - depth) & 1 for depth in range(network.prefixlen)]
    for bit in bits[:-1]:
        node = int.from_bytes(content[record(node, bit)], "big")
    content[record(node, bits[-1])] = root_of_v4.to_bytes(3, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("prefix", ["::ffff:0:0/96", "2002::/16"])
def test_ipv4_networks_behind_an_ipv6_prefix_are_found_there_too(tmp_path: Path, prefix: str) -> None:
    networks = {"2.0.0.0/9": COUNTRY, "2.128.0.0/25": CITY, prefix: REGISTERED_ONLY, "2001:db8::/32": CITY}
    path = with_alias(write(tmp_path / "a.mmdb", networks), prefix)
    v4 = ["2.0.1.1", "2.128.0.1", "2.128.0.129", "3.0.0.1"]
    packed = [int(IPv4Address(address)) for address in v4]
    v6 = [
        str(IPv6Address(0xFFFF << 32 | p if prefix.startswith("::") else 0x2002 << 112 | p << 80))
        for p in packed
    ]
    read = geoip.read(path)
    assert countries(read, *v4) == countries(read, *v6) == ["BR", "AR", "ZZ", "ZZ"]
    assert countries(read, "2001:db8::1") == ["AR"]


def test_countries_are_the_same_in_any_order_and_in_any_portion(tmp_path: Path) -> None:
    path = tmp_path / "demo.mmdb"
    demo.write(path)
    rng = np.random.default_rng(3)
    v4 = rng.integers(2 << 24, 6 << 24, 5_000, dtype=np.uint32)
    high = rng.integers(0x2A00_0000_0000_0000, 0x2A00_0200_0000_0000, 5_000).astype(np.uint64)
    low = rng.integers(0, 2**63, 5_000).astype(np.uint64)
    whole = geoip.read(path)
    expected = whole.of_v4(v4).tolist(), whole.of_v6(high, low).tolist()
    assert (whole.of_v4(v4).tolist(), whole.of_v6(high, low).tolist()) == expected
    pieces = geoip.read(path)
    order = rng.permutation(5_000)
    found4, found6 = np.zeros(5_000, np.int16), np.zeros(5_000, np.int16)
    for some in np.array_split(order, 17):
        found4[some], found6[some] = pieces.of_v4(v4[some]), pieces.of_v6(high[some], low[some])
    assert (found4.tolist(), found6.tolist()) == expected
    assert pieces.names == whole.names


def test_file_is_not_read_before_an_address_is_looked_up_and_may_be_replaced_meanwhile(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.mmdb", {"1.0.0.0/8": COUNTRY})
    opened = geoip.read(path)
    write(tmp_path / "b.mmdb", {"1.0.0.0/8": CITY}).replace(path)
    assert (opened.country_of("1.2.3.4"), geoip.read(path).country_of("1.2.3.4")) == ("BR", "AR")


def test_demo_file_agrees_with_its_reader_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "demo.mmdb"
    demo.write(path)
    read = geoip.read(path)
    rng = np.random.default_rng(7)
    v4 = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    low = rng.integers(0, 2**63, 5_000).astype(np.uint64)
    high = rng.integers(0x2A00_0000_0000_0000, 0x2A00_0200_0000_0000, 5_000).astype(np.uint64)

    def code(record: Any) -> str:
        return str(record["country"]["iso_code"]) if record else "ZZ"

    with maxminddb.open_database(path) as reader:
        expected_v4 = [code(reader.get(IPv4Address(address))) for address in v4.tolist()]
        expected_v6 = [
            code(reader.get(IPv6Address(h << 64 | x)))
            for h, x in zip(high.tolist(), low.tolist(), strict=True)
        ]
    assert [read.codes[c] for c in read.of_v4(v4).tolist()] == expected_v4
    assert [read.codes[c] for c in read.of_v6(high, low).tolist()] == expected_v6
    assert len(set(expected_v4)) > 20 and len(set(expected_v6)) > 150
    assert read.check() == len(demo.countries())


def test_errors_about_missing_damaged_and_wrong_files_have_hints(tmp_path: Path) -> None:
    asn = write(
        tmp_path / "asn.mmdb", {"1.0.0.0/8": {"autonomous_system_number": 1}}, database_type="GeoLite2-ASN"
    )
    damaged = tmp_path / "damaged.mmdb"
    damaged.write_bytes(asn.read_bytes()[:-200])
    text = tmp_path / "text.mmdb"
    text.write_text("country,network\n")
    said = {}
    for path in (tmp_path / "none.mmdb", damaged, text, asn):
        with pytest.raises(geoip.GeoIpError) as raised:
            geoip.read(path).country_of("1.2.3.4")
        assert "DWH_GEOIP_PATH" in raised.value.hint
        said[path.name] = raised.value.what.replace(str(tmp_path), "")
    assert said["none.mmdb"] == "There is no GeoIP file at /none.mmdb."
    assert said["asn.mmdb"] == "The GeoIP file /asn.mmdb is a GeoLite2-ASN file: it has no countries."
    assert said["damaged.mmdb"].startswith("The GeoIP file /damaged.mmdb cannot be read: ")
    assert said["text.mmdb"].startswith("The GeoIP file /text.mmdb cannot be read: ")


@pytest.mark.parametrize("kind", ["Test-Country", "Test-City"])
def test_one_address_is_looked_up_as_all_are(tmp_path: Path, kind: str) -> None:
    networks = {"1.0.0.0/25": COUNTRY, "2.0.0.0/8": CITY, "3.0.0.0/8": REGISTERED_ONLY, "2001:db8::/32": CITY}
    path = write(tmp_path / "a.mmdb", networks, database_type=kind)
    read = geoip.read(path)
    addresses = ("1.0.0.127", "2.2.3.4", "3.2.3.4", "9.9.9.9", "2001:db8::1", "2001:dead::1")
    found = {address: geoip.look_up(path, address) for address in addresses}
    assert {a: f.country for a, f in found.items()} == {a: read.country_of(a) for a in addresses}
    assert {f.database for f in found.values()} == {str(read)}
    assert str(found["1.0.0.127"].network) == "1.0.0.0/25"


def test_file_whose_records_are_damaged_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.mmdb", {f"{n}.0.0.0/8": {"country": {"iso_code": f"{n:02}"}} for n in range(1, 99)}
    )
    with maxminddb.open_database(path) as reader:
        meta = reader.metadata()
    content = bytearray(path.read_bytes())
    start = meta.node_count * meta.record_size // 4 + 16
    content[start : start + 300] = b"\xff" * 300
    path.write_bytes(content)
    with pytest.raises(geoip.GeoIpError, match="cannot be read"):
        geoip.read(path).check()
    # Nodes that lead beyond the file.
    content[:6] = b"\xff" * 6
    path.write_bytes(content)
    with pytest.raises(geoip.GeoIpError, match="cannot be read"):
        geoip.read(path).country_of("1.2.3.4")


@pytest.mark.parametrize("content", [b"", b"no database"])
def test_damaged_file_is_named_when_one_address_is_looked_up(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mmdb"
    path.write_bytes(content)
    with pytest.raises(geoip.GeoIpError, match="cannot be read"):
        geoip.look_up(path, "1.1.1.1")
