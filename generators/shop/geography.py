"""Where the shop's customers live: countries and states with weights, coordinates and languages."""

from functools import cache

import numpy as np
import numpy.typing as npt

# country: share of the customers, Faker locale of its names, states with the coordinates of their capitals
COUNTRIES: dict[str, tuple[float, str, dict[str, tuple[float, float]]]] = {
    "AR": (0.30, "es_AR", {
        "Buenos Aires": (-34.61, -58.38), "Córdoba": (-31.42, -64.18), "Santa Fe": (-32.95, -60.65),
        "Mendoza": (-32.89, -68.84), "Tucumán": (-26.82, -65.22), "Neuquén": (-38.95, -68.06),
    }),
    "BR": (0.28, "pt_BR", {
        "São Paulo": (-23.55, -46.63), "Rio de Janeiro": (-22.91, -43.17), "Minas Gerais": (-19.92, -43.94),
        "Paraná": (-25.43, -49.27), "Rio Grande do Sul": (-30.03, -51.23), "Bahia": (-12.97, -38.50),
    }),
    "MX": (0.12, "es_MX", {
        "Ciudad de México": (19.43, -99.13), "Jalisco": (20.67, -103.35), "Nuevo León": (25.69, -100.32),
        "Puebla": (19.04, -98.21),
    }),
    "CL": (0.08, "es_CL", {
        "Región Metropolitana": (-33.45, -70.67), "Valparaíso": (-33.05, -71.62), "Biobío": (-36.83, -73.05),
    }),
    "UY": (0.06, "es_AR", {
        "Montevideo": (-34.90, -56.19), "Canelones": (-34.52, -56.28), "Maldonado": (-34.91, -54.96),
    }),
    "CO": (0.05, "es_CO", {
        "Bogotá": (4.71, -74.07), "Antioquia": (6.25, -75.56), "Valle del Cauca": (3.45, -76.53),
    }),
    "US": (0.05, "en_US", {
        "Florida": (25.76, -80.19), "Texas": (29.76, -95.37), "California": (34.05, -118.24),
        "New York": (40.71, -74.01),
    }),
    "ES": (0.03, "es_ES", {"Madrid": (40.42, -3.70), "Cataluña": (41.39, 2.17), "Andalucía": (37.39, -5.98)}),
    "PT": (0.01, "pt_PT", {"Lisboa": (38.72, -9.14), "Porto": (41.15, -8.61)}),
    "DE": (0.01, "de_DE", {"Berlin": (52.52, 13.41), "Bayern": (48.14, 11.58)}),
    "FR": (0.01, "fr_FR", {"Île-de-France": (48.86, 2.35), "Provence": (43.30, 5.37)}),
}  # fmt: skip

DISTRIBUTION_CENTERS: tuple[tuple[str, float, float], ...] = (
    ("Buenos Aires Norte", -34.450000, -58.710000),
    ("Córdoba", -31.360000, -64.210000),
    ("Guarulhos", -23.430000, -46.480000),
    ("Recife", -8.050000, -34.900000),
    ("Curitiba", -25.530000, -49.170000),
    ("Santiago", -33.390000, -70.790000),
    ("Montevideo", -34.830000, -56.260000),
    ("Monterrey", 25.770000, -100.190000),
    ("Miami", 25.800000, -80.340000),
    ("Madrid", 40.390000, -3.570000),
)


@cache
def _states() -> tuple[list[str], list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    countries, states, weights, coordinates = [], [], [], []
    for country, (share, _, places) in COUNTRIES.items():
        for rank, (state, position) in enumerate(places.items(), start=1):
            countries.append(country)
            states.append(state)
            # within a country the first state is the largest, the others follow a Zipf law
            weights.append(share / rank / sum(1 / r for r in range(1, len(places) + 1)))
            coordinates.append(position)
    return countries, states, np.cumsum(weights) / sum(weights), np.array(coordinates)


def draw_places(
    rng: np.random.Generator, count: int
) -> tuple[list[str], list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Draw count homes: country codes, states, latitudes and longitudes in degrees."""
    countries, states, cumulative, coordinates = _states()
    drawn = np.searchsorted(cumulative, rng.random(count), side="right").clip(max=len(states) - 1)
    position = coordinates[drawn] + rng.normal(0, 0.35, (count, 2))
    return (
        [countries[i] for i in drawn],
        [states[i] for i in drawn],
        position[:, 0].round(6),
        position[:, 1].round(6),
    )


def draw_countries(rng: np.random.Generator, count: int) -> list[str]:
    """Draw count country codes, weighted like the customers."""
    return draw_places(rng, count)[0]
