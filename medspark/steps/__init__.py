"""Steps: an image in, an image out. What a module names in ``__all__`` can be used in a recipe."""

from medspark.ops import catalogue
from medspark.steps import denoise, edges, geometry, intensity, segment

STEPS = catalogue(intensity, denoise, edges, segment, geometry)
