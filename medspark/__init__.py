"""medspark: a hospital's image archive into features, models and predictions, on Apache Spark."""

__version__ = "0.1.0"
