"""Draw the shop's categories, brands, products, promotions, payment methods and distribution centers."""

import numpy as np
import numpy.typing as npt
import polars as pl

from generators.shop.geography import DISTRIBUTION_CENTERS
from generators.shop.people import Ids, Instants

Cents = npt.NDArray[np.int64]

# category: median base price in USD, nouns of its products
CATEGORIES: dict[str, tuple[float, tuple[str, ...]]] = {
    "Audio": (45, ("Headphones", "Earbuds", "Speaker", "Soundbar", "Microphone")),
    "Cameras": (310, ("Camera", "Lens", "Tripod", "Action Camera")),
    "Computers": (620, ("Laptop", "Desktop", "Monitor", "Mini PC")),
    "Accessories": (18, ("Mouse", "Keyboard", "Cable", "Charger", "Hub")),
    "Phones": (280, ("Phone", "Smartwatch", "Phone Case")),
    "Kitchen": (55, ("Blender", "Kettle", "Coffee Maker", "Knife Set", "Pan")),
    "Furniture": (160, ("Chair", "Desk", "Shelf", "Lamp", "Sofa")),
    "Garden": (38, ("Hose", "Grill", "Planter", "Lawn Mower")),
    "Tools": (48, ("Drill", "Saw", "Screwdriver Set", "Ladder")),
    "Sports": (35, ("Ball", "Tent", "Bicycle Helmet", "Yoga Mat", "Dumbbells")),
    "Toys": (20, ("Puzzle", "Board Game", "Building Blocks", "Doll")),
    "Books": (14, ("Novel", "Atlas", "Cookbook", "Dictionary")),
    "Clothing": (26, ("Jacket", "Shirt", "Trousers", "Cap")),
    "Shoes": (58, ("Sneakers", "Boots", "Sandals")),
    "Beauty": (16, ("Shampoo", "Perfume", "Face Cream")),
    "Health": (22, ("Thermometer", "Massager", "Scale")),
    "Pets": (19, ("Leash", "Cat Tree", "Dog Bed", "Aquarium")),
    "Office": (12, ("Notebook", "Pen Set", "Paper", "Stapler")),
    "Automotive": (42, ("Tyre", "Car Mat", "Motor Oil", "Dash Cam")),
    "Music": (190, ("Guitar", "Keyboard Stand", "Drum Kit", "Violin")),
}
CATEGORY_WORDS = ("More", "Co", "Living", "Style", "Home", "Outlet", "Plus")
ADJECTIVES = ("Classic", "Compact", "Eco", "Pro", "Smart", "Ultra", "Light", "Premium", "Everyday", "Travel")
SYLLABLES = (
    "nor",
    "vex",
    "al",
    "ti",
    "mar",
    "zen",
    "lu",
    "kor",
    "bri",
    "sol",
    "ta",
    "qui",
    "ran",
    "dex",
    "o",
)
BRAND_COUNT = 150
PAYMENT_METHODS = (
    ("Visa", "card"), ("Mastercard", "card"), ("American Express", "card"), ("Bank transfer", "transfer"),
    ("Pix", "transfer"), ("Mercado Pago", "wallet"), ("PayPal", "wallet"), ("Cash on delivery", "cash"),
    ("Twelve instalments", "instalment"),
)  # fmt: skip
PAYMENT_SHARES = (0.27, 0.21, 0.04, 0.07, 0.16, 0.13, 0.05, 0.03, 0.04)
# one per month, from January on
CAMPAIGNS = (
    "Clearance", "Summer", "Back to School", "Autumn", "Mothers Day", "Winter",
    "Mid-Year", "Kids Day", "Spring", "Anniversary", "Black Friday", "Christmas",
)  # fmt: skip
CAMPAIGN_EVERY, CAMPAIGN_LASTS = np.timedelta64(30, "D"), np.timedelta64(10, "D")


def draw_prices(rng: np.random.Generator, categories: Ids) -> tuple[Cents, Cents]:
    """Draw, for one product per category id, the base price and the platform's price above it, in cents."""
    medians = np.array([median for median, _ in CATEGORIES.values()])[(categories - 1) % len(CATEGORIES)]
    base = np.maximum(50, medians * 100 * rng.lognormal(0, 0.55, len(categories))).astype(np.int64)
    return base, base + np.maximum(1, base * rng.uniform(0.08, 0.65, len(categories))).astype(np.int64)


def draw_products(
    rng: np.random.Generator,
    ids: Ids,
    created_at: Instants,
    companies: Ids,
    category_ids: Ids,
    brands: pl.DataFrame,
) -> pl.DataFrame:
    """Draw one product per id, sold by the company in the same position of `companies`; updated_at is missing."""
    count = len(ids)
    categories = category_ids[rng.integers(0, len(category_ids), count)]
    brand_rows = rng.integers(0, brands.height, count)
    base, price = draw_prices(rng, categories)
    nouns = list(CATEGORIES.values())
    brand_names = brands["name"].to_list()
    words = zip(
        rng.integers(0, len(ADJECTIVES), count).tolist(),
        brand_rows.tolist(),
        categories.tolist(),
        rng.integers(0, 60, count).tolist(),
        rng.integers(100, 999, count).tolist(),
        strict=True,
    )
    names = []
    for adjective, brand, category, noun, model in words:
        choices = nouns[(category - 1) % len(nouns)][1]
        names.append(f"{brand_names[brand]} {ADJECTIVES[adjective]} {choices[noun % len(choices)]} {model}")
    return pl.DataFrame(
        {
            "id": ids,
            "company_id": companies,
            "category_id": categories,
            "brand_id": brands["id"].gather(brand_rows),
            "name": names,
            "price_default": base / 100,
            "price": price / 100,
            "currency": ["USD"] * count,
            "created_at": created_at,
        },
        schema_overrides={"created_at": pl.Datetime("us")},
    )


def lookups(seed: int, since: np.datetime64, until: np.datetime64) -> dict[str, pl.DataFrame]:
    """Draw the small tables: category, brand, promotion, payment_method, distribution_center."""
    rng = np.random.default_rng([seed, 1])
    brands: dict[str, None] = {}
    while len(brands) < BRAND_COUNT:
        brands["".join(rng.choice(SYLLABLES, int(rng.integers(2, 4)))).capitalize()] = None
    starts = np.arange(since, until + np.timedelta64(120, "D"), CAMPAIGN_EVERY)
    campaigns = [CAMPAIGNS[int(start.astype("datetime64[M]").astype(int)) % 12] for start in starts]
    years = [str(start.astype("datetime64[Y]")) for start in starts]
    tables = {
        "category": pl.DataFrame({"name": list(CATEGORIES)}),
        "brand": pl.DataFrame({"name": list(brands)}),
        "promotion": pl.DataFrame(
            {
                "code": [f"{c.replace(' ', '').upper()}{n:02d}" for n, c in enumerate(campaigns, start=1)],
                "name": [f"{campaign} {year}" for campaign, year in zip(campaigns, years, strict=True)],
                "discount_share": rng.integers(1, 7, len(starts)) * 0.05,
                "starts_at": starts,
                "ends_at": starts + CAMPAIGN_LASTS,
            }
        ),
        "payment_method": pl.DataFrame(PAYMENT_METHODS, schema=["name", "kind"], orient="row"),
        "distribution_center": pl.DataFrame(
            DISTRIBUTION_CENTERS, schema=["name", "latitude", "longitude"], orient="row"
        ),
    }
    stamps = {
        "created_at": pl.lit(since).cast(pl.Datetime("us")),
        "updated_at": pl.lit(since).cast(pl.Datetime("us")),
    }
    return {
        name: table.with_row_index("id", offset=1).with_columns(**stamps) for name, table in tables.items()
    }
