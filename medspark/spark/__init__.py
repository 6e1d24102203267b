"""The line for notebooks: DataFrame in, DataFrame out."""

from medspark.spark.extract import extract_features, read_images, split_quarantine
from medspark.spark.score import score, score_images

__all__ = ["extract_features", "read_images", "score", "score_images", "split_quarantine"]
