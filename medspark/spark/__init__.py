"""The line for notebooks: DataFrame in, DataFrame out."""

from medspark.spark.extract import extract_features, read_images, split_quarantine
from medspark.spark.score import score

__all__ = ["extract_features", "read_images", "score", "split_quarantine"]
