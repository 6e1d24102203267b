"""Rows with known classes for the tests of the models: X, labels, and weights of the rows."""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine, make_classification


def make_unbalanced(n_rows=400):
    """Return rows of three classes, the rarest of one row in twenty, whose labels are numbers with gaps."""
    X, codes = make_classification(
        n_rows, 9, n_informative=5, n_classes=3, weights=[0.8, 0.15, 0.05], flip_y=0.05, random_state=4
    )
    return X, np.array([3, 7, 40])[codes]


def make_weights(n_rows):
    return np.random.default_rng(6).uniform(0.2, 3, n_rows)


def beside(X):
    """Return rows near those of X that nobody learned from."""
    return X + np.random.default_rng(1).normal(0, X.std(axis=0) / 5, X.shape)


DATA = {
    "breast_cancer": load_breast_cancer(return_X_y=True),
    "wine": (load_wine().data, load_wine().target_names[load_wine().target]),  # labels are texts
    "unbalanced": make_unbalanced(),
}
