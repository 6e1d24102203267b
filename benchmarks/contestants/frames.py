"""A row for each frame of some files, by medspark's recipe: what every contestant with our recipe function makes."""

import pyarrow as pa

from medspark import Recipe
from medspark.frame import DEFAULT_LIMITS

RECIPE = Recipe.from_toml("default")
FIELDS = pa.schema(
    [
        ("path", pa.string()),
        ("frame", pa.int32()),
        ("content_sha256", pa.string()),
        ("failed_stage", pa.string()),
        ("reason", pa.string()),
        *((name, pa.float64()) for name in RECIPE.feature_names),
    ]
)
Row = tuple[str | int | float | None, ...]
_MISSING = (None,) * len(RECIPE.feature_names)


def measured(path: str) -> list[Row]:
    """Return the frames of a file, in the order of ``FIELDS``: a tenth of what an Outcome weighs."""
    digest, outcomes = RECIPE.run_file(path, limits=DEFAULT_LIMITS)
    return [
        (path, each.frame, digest, each.failed_stage, each.reason, *(each.features or _MISSING)) for each in outcomes
    ]


def columns(rows: list[Row]) -> list[pa.Array]:
    """Return an array for each of ``FIELDS``."""
    return [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), FIELDS, strict=True)]
