"""What every kind of model learns from and scores: a finite matrix, classes, weights of rows, and arrays on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medspark.errors import ContractError

Array = npt.NDArray[Any]


def matrix(X: Array, dtype: type[np.floating[Any]], n_features: int | None = None) -> Array:
    """Return rows x features in this dtype and in the order of C; the array itself if it is so already.

    Raises ContractError if it has another number of columns, or a value that is not finite as float32.
    """
    if np.ndim(X) != 2 or (n_features is not None and np.shape(X)[1] != n_features):
        wanted = "a matrix" if n_features is None else f"rows x {n_features}"
        raise ContractError(f"features: expected {wanted}, got shape {np.shape(X)}; select the columns of the model")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is named below
        single = np.asarray(X, dtype=np.float32)
    finite = np.isfinite(single)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        n_rows = np.count_nonzero(~finite.all(axis=1))
        raise ContractError(
            f"features: {n_rows} rows hold NaN, infinity or a number beyond float32, the first in row {row}, "
            f"column {column}; leave them out or extract them again"
        )
    return np.ascontiguousarray(single if dtype is np.float32 else X, dtype=dtype)


def class_codes(y: npt.ArrayLike) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the names of the classes in sorted order, and for each row the place of its class in them.

    ``y`` holds names or whole numbers; raises ContractError for anything else.
    """
    labels = np.asarray(y)
    is_text = labels.dtype.kind == "U" or (labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels))
    if not is_text and labels.dtype.kind not in "iu":
        raise ContractError(
            f"labels are names or whole numbers, got {labels.dtype} with missing or other values; drop those rows first"
        )
    classes, codes = np.unique(labels, return_inverse=True)
    return [str(name) for name in classes], codes


def require_classes(y_codes: Array, n_rows: int) -> None:
    """Raise ContractError unless there is a code for each row and, of at least two classes, each is there."""
    if len(y_codes) != n_rows:
        raise ContractError(f"{n_rows} rows of features and {len(y_codes)} labels; each row needs one")
    present = np.unique(y_codes)
    if len(present) < 2:
        raise ContractError(f"{n_rows} rows of {len(present)} class; a model needs at least two classes to tell apart")
    if not np.array_equal(present, np.arange(len(present))):
        raise ContractError(f"class codes must be 0 to {len(present) - 1}, got {present.tolist()}; see class_codes")


def row_weights(weights: npt.ArrayLike | None, n_rows: int) -> npt.NDArray[np.float64] | None:
    """Return the weights as float64, or None; ContractError unless each row has one that is finite and above 0."""
    if weights is None:
        return None
    given = np.asarray(weights, np.float64)
    if given.shape != (n_rows,):
        raise ContractError(f"{n_rows} rows of features and weights of shape {given.shape}; each row needs one")
    odd = np.flatnonzero(~(np.isfinite(given) & (given > 0)))
    if odd.size:
        raise ContractError(
            f"weights: {odd.size} are not above 0, the first in row {odd[0]}: {given[odd[0]]}; leave such rows out"
        )
    return given


def mean_and_scale(X: Array) -> tuple[Array, Array]:
    """Return the mean and the deviation of each column, as ``StandardScaler`` has them: 1 for a constant column."""
    from sklearn.preprocessing import StandardScaler  # scoring needs no scikit-learn, and it is slow to import

    scaler = StandardScaler().fit(X)
    return np.asarray(scaler.mean_), np.asarray(scaler.scale_)


def require_arrays(
    kind: str, arrays: Mapping[str, Array], expected: Mapping[str, tuple[str, Sequence[int | None]]]
) -> None:
    """Raise ContractError unless each array is there, of its kind of dtype and its shape, and finite.

    ``expected`` has for each name the letter that numpy has for the kind and the shape, None where any length will do.
    """
    missing = [name for name in expected if name not in arrays]
    if missing:
        raise ContractError(f"{kind}: no array {', '.join(missing)}; save the model again")
    for name, (letter, shape) in expected.items():
        array = arrays[name]
        is_shape = array.ndim == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
        )
        if not is_shape or array.dtype.kind != letter or (letter == "f" and not np.isfinite(array).all()):
            raise ContractError(
                f"{kind}: the array {name} does not fit, {array.dtype} of shape {array.shape}; train the model again"
            )
