"""Features: an image in, named numbers out.

A feature is a plain function ``name(image, *, parameters) -> {column: value}``. It gives the same columns in the same
order for every image, every value is a finite ``float``, and the image is left as it was. ``FEATURES`` holds each by
its name; the recipe puts the plane in front of its columns (``density`` of the plane ``edges`` is ``edges_density``).
"""

from medspark.features import first_order, gradient, lbp, regions, shape, texture
from medspark.features.lbp import local_binary_pattern
from medspark.ops import catalogue

__all__ = ["FEATURES", "local_binary_pattern"]

FEATURES = catalogue(first_order, gradient, lbp, regions, shape, texture)
