"""What every kind of model promises; a new kind is tested here from the moment it is in MODELS."""

import inspect

import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from medspark.errors import ContractError
from medspark.models import MODELS

QUICK = {"forest": {"trees": 3}, "boosting": {"trees": 3, "min_samples_leaf": 5}}
NOT_PARAMETERS = {"sample_weight", "groups"}

every_kind = pytest.mark.parametrize("kind", MODELS)
two_and_more_classes = pytest.mark.parametrize("name", ["breast_cancer", "wine"])


def fit(kind, X, y, **parameters):
    return MODELS[kind].fit(X, y, **QUICK.get(kind, {}), **parameters)


FITTED = {(kind, name): fit(kind, *samples.DATA[name]) for kind in MODELS for name in ("breast_cancer", "wine")}


def rebuilt(kind, model, arrays, **change):
    return MODELS[kind].from_arrays(arrays, **{"classes": model.classes, "n_features": model.n_features, **change})


def test_the_kinds_are_these():
    assert list(MODELS) == ["boosting", "forest", "logistic", "svm", "tree"]


@every_kind
def test_every_parameter_is_a_plain_value_with_a_default_of_its_type(kind):
    signature = inspect.signature(MODELS[kind].fit)
    assert list(signature.parameters)[:2] == ["X", "y"]
    parameters = [p for name, p in list(signature.parameters.items())[2:] if name not in NOT_PARAMETERS]
    assert all(p.kind is p.KEYWORD_ONLY and p.annotation in (int, float, str, bool) for p in parameters)
    assert all(type(p.default) is p.annotation for p in parameters)
    assert {"seed", "class_weight"} <= {p.name for p in parameters}
    assert signature.parameters["seed"].default == 42
    assert signature.parameters["sample_weight"].default is None


@every_kind
def test_names_and_numbers_of_classes_give_the_same_model(kind):
    X, y = samples.DATA["unbalanced"]
    numbers = fit(kind, X, y)
    names = fit(kind, X, np.array([f"class {label:02}" for label in y]))
    assert numbers.classes == ["3", "7", "40"]
    assert names.classes == ["class 03", "class 07", "class 40"]
    assert np.array_equal(numbers.predict_proba(X), names.predict_proba(X))


@every_kind
@two_and_more_classes
def test_the_same_seed_gives_the_same_bits(kind, name):
    X, y = samples.DATA[name]
    assert np.array_equal(fit(kind, X, y).predict_proba(X), FITTED[kind, name].predict_proba(X))


@every_kind
@two_and_more_classes
def test_probabilities_are_shares_that_tell_the_classes_apart(kind, name):
    X, y = samples.DATA[name]
    model = FITTED[kind, name]
    probability = model.predict_proba(X)
    assert probability.shape == (len(X), len(model.classes))
    assert probability.dtype == np.float64
    assert probability.min() >= 0
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-14)
    assert np.mean(np.array(model.classes)[probability.argmax(axis=1)] == y.astype(str)) > 0.9
    assert model.n_features == X.shape[1]


@every_kind
@two_and_more_classes
def test_a_row_gets_the_same_bits_alone_as_among_others(kind, name):
    X, _ = samples.DATA[name]
    model = FITTED[kind, name]
    together = model.predict_proba(X)
    assert np.array_equal(np.vstack([model.predict_proba(X[row : row + 1]) for row in range(50)]), together[:50])
    assert np.array_equal(model.predict_proba(X[:13]), together[:13])
    assert np.array_equal(model.predict_proba(np.asfortranarray(X)[::-1]), together[::-1])


@every_kind
def test_no_rows_give_no_probabilities(kind):
    assert FITTED[kind, "wine"].predict_proba(np.zeros((0, 13))).shape == (0, 3)


@every_kind
def test_training_and_scoring_leave_the_rows_as_they_were(kind):
    X, y = (array.copy() for array in samples.DATA["wine"])
    weights = samples.make_weights(len(y))
    for array in (X, y, weights):
        array.flags.writeable = False
    fit(kind, X, y, sample_weight=weights).predict_proba(X)
    assert np.array_equal(X, samples.DATA["wine"][0])


@every_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_refused_with_its_place(kind, bad):
    X, y = samples.DATA["wine"]
    rows = X.copy()
    rows[7, 2] = rows[9, 0] = bad
    with pytest.raises(ContractError, match=r"2 rows hold NaN.*row 7, column 2"):
        FITTED[kind, "wine"].predict_proba(rows)
    with pytest.raises(ContractError, match=r"2 rows hold NaN.*row 7, column 2"):
        fit(kind, rows, y)


@every_kind
@pytest.mark.parametrize("shape", [(5, 12), (5, 14), (13,)])
def test_a_matrix_of_another_width_is_refused(kind, shape):
    with pytest.raises(ContractError, match="rows x 13"):
        FITTED[kind, "wine"].predict_proba(np.zeros(shape))


@every_kind
@pytest.mark.parametrize(
    ("y", "weights", "message"),
    [
        ([0] * 12, None, "at least two classes"),
        ([0, 1], None, "12 rows of features and 2 labels"),
        ([0.5, 1.0] * 6, None, "labels are names or whole numbers"),
        ([0, 1] * 6, np.ones(3), r"weights of shape \(3,\)"),
        ([0, 1] * 6, [1.0] * 11 + [0.0], "1 are not above 0, the first in row 11: 0.0"),
        ([0, 1] * 6, [np.nan] + [1.0] * 11, "not above 0, the first in row 0: nan"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(kind, y, weights, message):
    with pytest.raises(ContractError, match=message):
        fit(kind, np.arange(12.0).reshape(12, 1), y, sample_weight=weights)


@every_kind
@two_and_more_classes
def test_arrays_saved_and_mapped_back_score_equal_bits(kind, name, tmp_path):
    X, _ = samples.DATA[name]
    model = FITTED[kind, name]
    mapped = {}
    for key, array in model.arrays().items():
        np.save(tmp_path / key, array, allow_pickle=False)
        mapped[key] = np.load(tmp_path / f"{key}.npy", mmap_mode="r", allow_pickle=False)
    again = rebuilt(kind, model, mapped)
    assert again.classes == model.classes
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


@every_kind
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_model_rebuilt_from_its_arrays_scores_equal_bits(kind, data):
    n_classes, n_features = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    y = np.concatenate([np.repeat(np.arange(n_classes), 8), rng.integers(0, n_classes, 20)])
    X = rng.normal(size=(len(y), n_features)).round(1) + y[:, None] * rng.normal(size=n_features)
    model = fit(kind, X, y, seed=data.draw(st.integers(0, 2**32 - 1)))
    again = rebuilt(kind, model, model.arrays())
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


def mutilated(array, how):
    """Return an array that is damaged in one way, or None if this one cannot be."""
    if how == "cut":
        return array[:-1] if array.ndim else None
    if how == "another axis":
        return array[..., None]
    if how == "another type":
        return array.astype(np.int64 if array.dtype.kind == "f" else "U3" if array.dtype.kind == "i" else object)
    if array.dtype.kind != "f":
        return None
    damaged = array.copy()
    damaged.flat[-1] = np.nan
    return damaged


@every_kind
@two_and_more_classes
@given(data=st.data())
def test_mutilated_arrays_are_refused(kind, name, data):
    model = FITTED[kind, name]
    arrays = model.arrays()
    key = data.draw(st.sampled_from(sorted(arrays)))
    damaged = mutilated(arrays[key], data.draw(st.sampled_from(["cut", "another axis", "another type", "NaN"])))
    if damaged is not None:
        with pytest.raises(ContractError, match=r"train the model again|save the model again"):
            rebuilt(kind, model, arrays | {key: damaged})


@every_kind
def test_each_missing_array_is_named(kind):
    model = FITTED[kind, "wine"]
    for name in model.arrays():
        rest = {key: array for key, array in model.arrays().items() if key != name}
        with pytest.raises(ContractError, match=f"no array {name}; save the model again"):
            rebuilt(kind, model, rest)


@every_kind
@pytest.mark.parametrize("change", [{"classes": ["a", "b"]}, {"classes": ["a", "b", "c", "d"]}, {"n_features": 1}])
def test_arrays_of_other_classes_or_features_are_refused(kind, change):
    model = FITTED[kind, "wine"]
    with pytest.raises(ContractError, match="train the model again"):
        rebuilt(kind, model, model.arrays(), **change)


@every_kind
def test_no_array_holds_python_objects(kind):
    assert all(array.dtype.kind in "fiU" for array in FITTED[kind, "wine"].arrays().values())


@every_kind
def test_a_model_survives_the_way_to_another_process(kind):
    import pickle  # as Spark sends a broadcast

    X, _ = samples.DATA["wine"]
    model = FITTED[kind, "wine"]
    there = pickle.loads(pickle.dumps(model))  # noqa: S301 - written one line above
    assert np.array_equal(there.predict_proba(X), model.predict_proba(X))
