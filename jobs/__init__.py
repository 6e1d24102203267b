"""The jobs: one file for each arrow of the line."""
