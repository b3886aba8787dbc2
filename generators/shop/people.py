"""Draw customers and companies, with plausible names, unique document numbers and valid tax numbers."""

import re
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl
from faker import Faker

from generators.shop.geography import COUNTRIES, draw_countries, draw_places

Ids = npt.NDArray[np.int64]
Instants = npt.NDArray[np.datetime64]

TIERS = ("bronze", "silver", "gold", "platinum")
TIER_SHARES = (0.62, 0.24, 0.11, 0.03)
SOURCES = ("google", "direct", "facebook", "instagram", "newsletter", "referral", "tiktok")
SOURCE_SHARES = (0.34, 0.2, 0.15, 0.13, 0.08, 0.06, 0.04)
MAIL_DOMAINS = ("example.com", "example.org", "example.net")
TRADES = (
    "Comercial",
    "Tienda",
    "Distribuidora",
    "Electro",
    "Casa",
    "Mercado",
    "Industrias",
    "Hogar",
    "Digital",
)
LEGAL_FORMS = {
    "AR": "S.A.",
    "BR": "Ltda.",
    "CL": "SpA",
    "US": "LLC",
    "DE": "GmbH",
    "FR": "SARL",
    "PT": "Lda.",
}


@cache
def _names(locale: str) -> tuple[list[str], list[str]]:
    # the pools of names are the same for every seed; the seed decides which names are drawn from them
    fake = Faker(locale)
    fake.seed_instance(f"shop {locale}")
    return [fake.first_name() for _ in range(250)], [fake.last_name() for _ in range(400)]


@cache
def _slug(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z]+", "", ascii_text.lower())


def document_number(customer_id: int) -> str:
    """The 8-digit document number of a customer, different for every id below 90 million."""
    return str(10_000_000 + customer_id * 48_271_019 % 90_000_000)


def cuit(company_id: int) -> str:
    """The 11-digit tax number of a company, check digit included; unique below id 100 million."""
    body = f"{company_id * 48_271_019 % 100_000_000:08d}"
    for prefix in ("30", "33"):
        digits = prefix + body
        check = -sum(int(d) * w for d, w in zip(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2), strict=True)) % 11
        if check != 10:
            break
    return f"{digits}{check}"


def draw_customers(rng: np.random.Generator, ids: Ids, created_at: Instants) -> pl.DataFrame:
    """Draw one complete and valid customer per id; updated_at is missing."""
    count = len(ids)
    countries, states, latitudes, longitudes = draw_places(rng, count)
    names, usernames = [], []
    firsts, lasts = rng.integers(0, 250, count).tolist(), rng.integers(0, 400, count).tolist()
    for key, country, first, last in zip(ids.tolist(), countries, firsts, lasts, strict=True):
        first_names, last_names = _names(COUNTRIES[country][1])
        names.append(f"{first_names[first]} {last_names[last]}")
        usernames.append(f"{_slug(first_names[first])}.{_slug(last_names[last])}{key}")
    ages_in_days = (18 * 365 + rng.gamma(3.2, 7.0 * 365, count)).clip(max=90 * 365).astype("timedelta64[D]")
    domains = rng.integers(0, len(MAIL_DOMAINS), count).tolist()
    return pl.DataFrame(
        {
            "id": ids,
            "document_number": [document_number(key) for key in ids.tolist()],
            "name": names,
            "username": usernames,
            "email": [f"{user}@{MAIL_DOMAINS[d]}" for user, d in zip(usernames, domains, strict=True)],
            "birth_date": created_at.astype("datetime64[D]") - ages_in_days,
            "country": countries,
            "state": states,
            "latitude": latitudes,
            "longitude": longitudes,
            "loyalty_tier": rng.choice(TIERS, count, p=TIER_SHARES).tolist(),
            "acquisition_source": rng.choice(SOURCES, count, p=SOURCE_SHARES).tolist(),
            "created_at": created_at,
        },
        schema_overrides={"created_at": pl.Datetime("us")},
    )


def draw_companies(rng: np.random.Generator, ids: Ids, created_at: Instants) -> pl.DataFrame:
    """Draw one company per id; updated_at is missing."""
    count = len(ids)
    countries = draw_countries(rng, count)
    trades, lasts = rng.integers(0, len(TRADES), count).tolist(), rng.integers(0, 400, count).tolist()
    return pl.DataFrame(
        {
            "id": ids,
            "cuit": [cuit(key) for key in ids.tolist()],
            "name": [
                f"{TRADES[trade]} {_names(COUNTRIES[country][1])[1][last]} {LEGAL_FORMS.get(country, 'S.A.')}"
                for country, trade, last in zip(countries, trades, lasts, strict=True)
            ],
            "country": countries,
            "created_at": created_at,
        },
        schema_overrides={"created_at": pl.Datetime("us")},
    )
