"""The map of the world: countries at their places, none across the whole picture."""

import re

import pytest

from warehouse.report.world import HEIGHT, WIDTH, country_paths, project


def ring_widths(path: str) -> list[float]:
    """Width of each ring of a path, in pixels."""
    widths = []
    for ring in path.split("z"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", ring)]
        x, places = 0.0, []
        for step in numbers[::2]:
            x += step
            places.append(x)
        if places:
            widths.append(max(places) - min(places))
    return widths


def test_countries_are_where_they_are() -> None:
    paths = country_paths()
    assert {"AR", "BR", "US", "DE", "RU", "AU", "NZ", "FJ"} <= set(paths)
    assert "AQ" not in paths
    for code, (longitude, latitude) in {"UY": (-56, -33), "DE": (10, 51), "JP": (138, 36)}.items():
        x, y = project(longitude, latitude)
        start_x, start_y = map(float, re.findall(r"-?[\d.]+", paths[code])[:2])
        assert abs(start_x - x) < 40 and abs(start_y - y) < 40, code


@pytest.mark.parametrize("code", ["RU", "FJ", "US", "NZ"])
def test_no_country_is_drawn_across_the_edge_of_the_map(code: str) -> None:
    assert max(ring_widths(country_paths()[code])) < WIDTH * 0.6


def test_the_picture_holds_what_is_drawn() -> None:
    for longitude, latitude in ((-168, 65), (179, -17), (11, 83), (-70, -55)):
        x, y = project(longitude, latitude)
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
