"""World map as SVG paths, from the country boundaries of Natural Earth (public domain, see NOTICE)."""

import json
from functools import cache
from math import radians
from pathlib import Path
from typing import Final

TOPOLOGY: Final = Path(__file__).parent / "countries-110m.json"
WIDTH: Final = 960
HEIGHT: Final = 430
# Antarctica has no customers, but would take a third of the picture.
LEFT_OUT: Final = frozenset({"AQ"})
# The projection's width is 5.4539 radii.
_RADIUS: Final = WIDTH / 5.4539
_NORTH: Final = 83.7
# With this central meridian, the map's edge runs through the Bering Strait and cuts no country.
_MIDDLE: Final = 11.6
Point = tuple[float, float]


@cache
def country_paths() -> dict[str, str]:
    """Return the SVG path of each country by its ISO 3166-1 alpha-2 code; '' has the territories without a code."""
    topology = json.loads(TOPOLOGY.read_text())
    scale, translate = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for steps in topology["arcs"]:
        x = y = 0
        arc = []
        # TopoJSON stores each point of an arc as the difference from the previous one.
        for dx, dy in steps:
            x, y = x + dx, y + dy
            arc.append(project(x * scale[0] + translate[0], y * scale[1] + translate[1]))
        arcs.append(arc)
    paths: dict[str, str] = {}
    for country in topology["objects"]["countries"]["geometries"]:
        code = country.get("id", "")
        if code in LEFT_OUT:
            continue
        polygons = country["arcs"] if country["type"] == "MultiPolygon" else [country["arcs"]]
        rings = [_ring(numbers, arcs) for polygon in polygons for numbers in polygon]
        paths[code] = paths.get(code, "") + "".join(map(_path, rings))
    return paths


def project(longitude: float, latitude: float) -> Point:
    """Project a point to the map, in pixels (Natural Earth projection)."""
    x, y = _unit((longitude - _MIDDLE + 180) % 360 - 180, latitude)
    top = _unit(0, _NORTH)[1]
    return WIDTH / 2 + x * _RADIUS, (top - y) * _RADIUS


def _unit(longitude: float, latitude: float) -> Point:
    phi = radians(latitude)
    square = phi * phi
    fourth = square * square
    length = (
        0.870700 - 0.131979 * square + fourth * (-0.013791 + fourth * (0.003971 * square - 0.001529 * fourth))
    )
    height = phi * (
        1.007226 + square * (0.015085 + fourth * (-0.044475 + 0.028874 * square - 0.005916 * fourth))
    )
    return radians(longitude) * length, height


def _ring(numbers: list[int], arcs: list[list[Point]]) -> list[Point]:
    """Join arcs to a ring. A negative number means a reversed arc; each arc begins at the end of the previous one."""
    points: list[Point] = []
    for number in numbers:
        arc = arcs[number] if number >= 0 else arcs[~number][::-1]
        points += arc if not points else arc[1:]
    return points


def _path(points: list[Point]) -> str:
    """Return a ring as an SVG path of relative steps in tenths of a pixel. The last point must equal the first."""
    x, y = (round(value * 10) for value in points[0])
    steps = [f"M{x / 10:g} {y / 10:g}l"]
    for point in points[1:-1]:
        next_x, next_y = (round(value * 10) for value in point)
        if (next_x, next_y) != (x, y):
            steps.append(f"{(next_x - x) / 10:g} {(next_y - y) / 10:g} ")
        x, y = next_x, next_y
    # Omit rings smaller than a tenth of a pixel.
    return "".join(steps).rstrip() + "z" if len(steps) > 1 else ""
