"""Cluster customers by their features with k-means, and draw them."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import pandas as pd

from warehouse.errors import SettingsError
from warehouse.features.export import read_features

MEASURES: Final = {
    "age": "Age",
    "nearest_distribution_center_km": "Km to center",
    "return_rate_last_year": "Return rate",
    "spend_last_year_amount": "Spend, last year",
    "order_count": "Orders",
    "recency_days": "Days since order",
}
NUMBER, SEED = 4, 42
PICTURES: Final = (".svg", ".png")


def cluster(
    url: str,
    *,
    number: int = NUMBER,
    seed: int = SEED,
    as_of: date | None = None,
    picture: Path | None = None,
) -> pd.DataFrame:
    """Cluster customers, and optionally draw the clusters to `picture` (SVG or PNG).

    Features are standardized, and missing ones replaced by the median. The same features, number and seed give the same
    clusters. Returns size and mean features of each cluster, the one with the highest spend first.

    Raises:
        SettingsError: scikit-learn is not installed, or the picture is no SVG or PNG file.
        FeaturesMissing: there are no features as of that day.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise SettingsError(
            "Clusters need scikit-learn, which is not installed.", hint="pip install 'dwh[features]'"
        ) from None
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise SettingsError(
            f"{picture} cannot be drawn: it is named as neither an SVG nor a PNG file.",
            hint=f"Name it {picture.with_suffix('.svg')}.",
        )
    frame = read_features(url, as_of)
    values = frame[list(MEASURES)].astype("float64")
    values = values.fillna(values.median()).fillna(0)
    scaled = StandardScaler().fit_transform(values)
    # Customers with the same features are in one cluster, however many are asked for.
    distinct = len(values.drop_duplicates())
    number = min(number, distinct)
    labels = KMeans(n_clusters=number, random_state=seed, n_init=10).fit_predict(scaled)
    summary = values.assign(cluster=labels).groupby("cluster").mean()
    summary.insert(0, "customer_count", pd.Series(labels).value_counts())
    order = summary.sort_values("spend_last_year_amount", ascending=False).index
    names = {old: new for new, old in enumerate(order, 1)}
    summary = summary.loc[order].rename(index=names)
    if picture is not None:
        # PCA needs two different customers: if all are alike, their standardized values are 0, 0.
        place = PCA(2, random_state=seed).fit_transform(scaled) if distinct > 1 else scaled[:, :2]
        _draw(picture, place, [names[each] for each in labels], summary)
    return summary


def _draw(path: Path, place: Any, clusters: Sequence[int], summary: pd.DataFrame) -> None:
    from matplotlib.figure import Figure

    points = pd.DataFrame({"x": place[:, 0], "y": place[:, 1], "cluster": clusters})
    figure = Figure(figsize=(11, 5), layout="constrained")
    scatter, profile = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for (number, group), marker in zip(points.groupby("cluster"), "osD^vPX*<>", strict=False):
        scatter.scatter(group.x, group.y, s=14, marker=marker, label=f"{number}: {len(group):,} customers")
    scatter.set(title="Customers by their features (principal components)", xlabel="1st", ylabel="2nd")
    scatter.legend(title="Cluster")
    means = summary[list(MEASURES)]
    spread = (means - means.min()) / (means.max() - means.min()).replace(0, 1)
    profile.imshow(spread, cmap="Blues", vmin=-0.2, vmax=1.6, aspect="auto")
    profile.set_xticks(range(len(MEASURES)), list(MEASURES.values()), rotation=25, ha="right")
    profile.set_yticks(range(len(means)), [f"Cluster {number}" for number in means.index])
    for row, values in enumerate(means.itertuples(index=False)):
        for column, value in enumerate(values):
            profile.text(
                column, row, f"{value:,.2f}" if value < 10 else f"{value:,.0f}", ha="center", va="center"
            )
    profile.set_title("Mean of each feature")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
