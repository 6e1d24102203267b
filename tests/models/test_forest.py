"""The forest against its oracle, scikit-learn's RandomForestClassifier."""

import itertools
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier

from medspark.errors import ConfigError, ContractError
from medspark.models import MODELS, walk
from medspark.models.forest import Forest, Trees, class_codes, forest, shares, train_trees

DATA = {
    "iris": load_iris(return_X_y=True),
    "breast_cancer": load_breast_cancer(return_X_y=True),
    "digits": tuple(part[:400] for part in load_digits(return_X_y=True)),
}
SETTINGS = [(50, 3, 42), (20, 10, 0), (10, 0, 7)]  # trees, depth, seed


def oracle(X, y, trees, depth, seed):
    return RandomForestClassifier(n_estimators=trees, max_depth=depth or None, random_state=seed, n_jobs=1).fit(X, y)


def tree_of(trees: Trees, index: int) -> dict[str, np.ndarray]:
    nodes = slice(trees.roots[index], trees.roots[index] + trees.n_nodes[index])
    return {field.name: getattr(trees, field.name)[nodes] for field in fields(Trees)[1:]}


def assert_same_trees(trees: Trees, theirs: RandomForestClassifier) -> None:
    assert len(trees.n_nodes) == len(theirs.estimators_)
    for index, estimator in enumerate(theirs.estimators_):
        for name, ours in tree_of(trees, index).items():
            expected = getattr(estimator.tree_, name)
            np.testing.assert_array_equal(ours, expected[:, 0, :] if name == "value" else expected, err_msg=name)


@pytest.mark.parametrize(("trees", "depth", "seed"), SETTINGS)
@pytest.mark.parametrize("name", DATA)
def test_every_tree_is_the_one_scikit_learn_grows(name, trees, depth, seed):
    X, y = DATA[name]
    assert_same_trees(forest(X, y, trees=trees, depth=depth, seed=seed).trees, oracle(X, y, trees, depth, seed))


@pytest.mark.parametrize("bounds", [(0, 10), (0, 3, 10), (0, 1, 2, 5, 6, 10)])
@pytest.mark.parametrize("name", DATA)
def test_shares_joined_are_the_whole_forest(name, bounds):
    X, y = DATA[name]
    shares = [
        train_trees(X, y, first=first, count=end - first, trees=10, depth=0, seed=5)
        for first, end in itertools.pairwise(bounds)
    ]
    assert_same_trees(Trees.join(shares), oracle(X, y, 10, 0, 5))


GROWTH = [  # together every parameter, most of them in two ways
    {"depth": 0, "criterion": "entropy", "max_features": "log2", "min_samples_split": 7},
    {"depth": 5, "class_weight": "balanced", "min_samples_leaf": 4, "ccp_alpha": 0.002},
    {"depth": 0, "class_weight": "balanced_subsample", "max_samples": 0.6, "max_leaf_nodes": 12, "seed": 0},
    {"depth": 4, "class_weight": "balanced", "bootstrap": False, "min_impurity_decrease": 0.003},
    {"depth": 0, "class_weight": "balanced_subsample", "bootstrap": False, "criterion": "log_loss", "seed": 2**32 - 1},
    {"depth": 6, "class_weight": "balanced", "max_samples": 0.3, "max_features": "all"},
    {"depth": 3, "max_samples": 1.0},
]


def theirs_of(X, y, weights, *, trees, depth=3, seed=42, **growth):
    """Fit scikit-learn's forest of all trees at once, with our words for its None."""
    nones = {("max_features", "all"), ("max_leaf_nodes", 0), ("max_samples", 0.0), ("class_weight", "")}
    given_to_it = {name: None if (name, value) in nones else value for name, value in growth.items()}
    grower = RandomForestClassifier(trees, max_depth=depth or None, random_state=seed, **given_to_it)
    return grower.fit(X, y, sample_weight=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("growth", GROWTH, ids="-".join)
@pytest.mark.parametrize("name", samples.DATA)
def test_with_any_parameter_shares_joined_are_the_forest_grown_at_once(name, growth, weighted):
    X, y = samples.DATA[name]
    weights = samples.make_weights(len(y)) if weighted else None
    theirs = theirs_of(X, y, weights, trees=7, **growth)
    whole = forest(X, y, trees=7, sample_weight=weights, **growth)
    assert_same_trees(whole.trees, theirs)
    codes = class_codes(y)[1]
    for n in (1, 2, 5):
        parts = [
            train_trees(X, codes, first=first, count=count, trees=7, sample_weight=weights, **growth)
            for first, count in shares(7, n)
        ]
        assert len(parts) == n
        assert_same_trees(Trees.join(parts), theirs)
    rows = samples.beside(X)
    assert np.array_equal(whole.predict_proba(rows), theirs.predict_proba(rows))
    assert np.array_equal(whole.feature_importances, theirs.feature_importances_)
    assert whole.classes == [str(label) for label in theirs.classes_]


def test_each_of_these_parameters_makes_another_forest():
    X, y = samples.DATA["unbalanced"]
    forests = [forest(X, y, trees=3, **growth).predict_proba(X) for growth in ({}, *GROWTH[:-1])]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(forests, 2))
    touched = set().union(*GROWTH)
    assert touched == set(train_trees.__annotations__["growth"].__args__[0].__annotations__)


def test_training_leaves_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    forest(*DATA["iris"], trees=1, class_weight="balanced")
    assert warnings.filters == before


@given(trees=st.integers(1, 200), n=st.integers(1, 50))
def test_shares_follow_each_other_and_are_even(trees, n):
    parts = shares(trees, n)
    assert [tree for first, count in parts for tree in range(first, first + count)] == list(range(trees))
    counts = [count for _, count in parts]
    assert len(parts) == min(trees, n)
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("n_rows", [1, 7, 8, 9, 1023, 1025, 2055])
@pytest.mark.parametrize("n_nodes", [walk.SMALL, 0])
def test_blocks_of_any_size_and_their_ends_change_nothing(n_rows, n_nodes, monkeypatch):
    monkeypatch.setattr(walk, "SMALL", n_nodes)
    monkeypatch.setattr(walk, "MANY", 1001)  # no multiple of the lanes
    X, y = samples.DATA["unbalanced"]
    theirs = oracle(X, y, 5, 0, 3)
    rows = np.resize(samples.beside(X), (n_rows, X.shape[1]))
    assert np.array_equal(forest(X, y, trees=5, depth=0, seed=3).predict_proba(rows), theirs.predict_proba(rows))


@pytest.mark.parametrize(("trees", "depth", "seed"), SETTINGS)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_scikit_learns_to_the_last_bit(name, trees, depth, seed, dtype):
    X, y = DATA[name]
    theirs = oracle(X, y, trees, depth, seed)
    ours = forest(X, y, trees=trees, depth=depth, seed=seed)
    unseen = (X + np.random.default_rng(1).normal(0, X.std() / 10, X.shape)).astype(dtype)
    for rows in (X.astype(dtype), unseen, np.asfortranarray(unseen)[::-1], unseen[:1], unseen[:65]):
        assert np.array_equal(ours.predict_proba(rows), theirs.predict_proba(rows))


def test_rows_on_and_beside_a_threshold_go_the_way_of_scikit_learn():
    X, y = DATA["breast_cancer"]
    theirs = oracle(X, y, 20, 0, 3)
    ours = forest(X, y, trees=20, depth=0, seed=3)
    at = np.repeat(X[:1], len(ours.trees.feature), axis=0)
    splits = np.flatnonzero(ours.trees.feature >= 0)
    at[splits, ours.trees.feature[splits]] = ours.trees.threshold[splits]
    nearest = at.astype(np.float32)
    for rows in (at, nearest, np.nextafter(nearest, np.float32(-np.inf)), np.nextafter(nearest, np.float32(np.inf))):
        assert np.array_equal(ours.predict_proba(rows), theirs.predict_proba(rows))


@pytest.mark.parametrize(("trees", "depth", "seed"), SETTINGS)
@pytest.mark.parametrize("name", DATA)
def test_feature_importances_are_scikit_learns_to_the_last_bit(name, trees, depth, seed):
    X, y = DATA[name]
    ours = forest(X, y, trees=trees, depth=depth, seed=seed).feature_importances
    assert np.array_equal(ours, oracle(X, y, trees, depth, seed).feature_importances_)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), depth=st.integers(0, 4))
def test_any_small_data_set_gives_scikit_learns_forest(data, seed, depth):
    n_rows, n_features = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 4))
    # Few distinct values make ties and constant columns, which is where two implementations part.
    values = st.sampled_from([-1e30, -1.5, 0.0, 1e-30, 0.1, 1.0, 16777217.0])
    X = data.draw(hnp.arrays(np.float64, (n_rows, n_features), elements=values))
    y = data.draw(hnp.arrays(np.int64, n_rows, elements=st.integers(0, 3)).filter(lambda y: len(set(y)) > 1))
    theirs = oracle(X, y, 5, depth, seed)
    ours = forest(X, y, trees=5, depth=depth, seed=seed)
    assert ours.classes == [str(label) for label in theirs.classes_]
    assert_same_trees(ours.trees, theirs)
    assert np.array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    with np.errstate(invalid="ignore"):
        assert np.array_equal(ours.feature_importances, np.nan_to_num(theirs.feature_importances_))


def test_splits_that_gain_nothing_leave_importances_of_zero():
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 2), [0, 1, 1, 0] * 2  # exclusive or: one split tells nothing
    stumps = [forest(X, y, trees=1, depth=1, seed=seed) for seed in range(100)]
    useless = next(model for model in stumps if np.ptp(model.predict_proba(X), axis=0).max() == 0)
    assert len(useless.trees.feature) == 3
    assert useless.feature_importances.tolist() == [0, 0]


def test_predict_names_the_most_probable_class_as_scikit_learn_does():
    X, y = DATA["iris"]
    names = load_iris().target_names[y]
    ours = forest(X, names, trees=10)
    theirs = oracle(X, names, 10, 3, 42)
    assert ours.classes == ["setosa", "versicolor", "virginica"]
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()


def test_of_two_equal_probabilities_the_first_class_is_predicted():
    X = np.zeros((4, 1))  # nothing to split on: every row gets the same fractions
    even = next(
        model
        for model in (forest(X, ["b", "a", "b", "a"], trees=1, seed=seed) for seed in range(100))
        if np.array_equal(model.predict_proba(X[:1]), [[0.5, 0.5]])
    )
    assert even.predict(X[:1]).tolist() == ["a"]


def test_the_defaults_are_the_forest_of_the_seed_article():
    X, y = DATA["iris"]
    assert_same_trees(forest(X, y).trees, oracle(X, y, 100, 3, 42))


def test_labels_become_sorted_names_and_their_places():
    names, codes = class_codes(np.array(["b", "a", "b"], dtype=object))
    assert names == ["a", "b"]
    assert codes.tolist() == [1, 0, 1]
    assert class_codes([10, 2])[0] == ["2", "10"]  # by value, as scikit-learn orders them


def test_no_rows_give_no_probabilities():
    X, y = DATA["iris"]
    assert forest(X, y, trees=2).predict_proba(X[:0]).shape == (0, 3)


def test_arrays_saved_and_mapped_back_give_the_same_forest(tmp_path):
    X, y = DATA["digits"]
    ours = forest(X, y, trees=5, depth=0)
    mapped = {}
    for name, array in ours.arrays().items():
        np.save(tmp_path / name, array, allow_pickle=False)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    again = MODELS["forest"].from_arrays(mapped, classes=ours.classes, n_features=ours.n_features)
    assert again.classes == ours.classes
    assert np.array_equal(again.predict_proba(X), ours.predict_proba(X))
    assert np.array_equal(again.feature_importances, ours.feature_importances)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_not_finite_is_refused_with_its_place(bad):
    X, y = DATA["iris"]
    rows = X.copy()
    rows[7, 2] = rows[9, 0] = rows[9, 1] = bad
    with pytest.raises(ContractError, match=r"2 rows hold NaN.*row 7, column 2"):
        forest(X, y, trees=1).predict_proba(rows)
    with pytest.raises(ContractError, match=r"2 rows hold NaN.*row 7, column 2"):
        forest(rows, y)


@pytest.mark.parametrize("shape", [(5, 3), (5, 5), (4,), (1, 4, 1)])
def test_a_matrix_of_another_width_is_refused(shape):
    X, y = DATA["iris"]
    with pytest.raises(ContractError, match="rows x 4"):
        forest(X, y, trees=1).predict_proba(np.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": -1}, "trees -1 to 1"),
        ({"count": 0}, "trees 0 to 0"),
        ({"first": 4}, "trees 4 to 6 .* trees = 5"),
        ({"depth": -1}, "depth = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed = 4294967296"),
        ({"depth": 2.5}, "depth = 2.5"),
        ({"criterion": "mse"}, 'criterion = "mse": known are "gini", "entropy", "log_loss"'),
        ({"max_features": "half"}, 'max_features = "half": known are "sqrt", "log2", "all"'),
        ({"min_samples_split": 1}, "min_samples_split = 1: give a whole number, at least 2"),
        ({"min_samples_leaf": 0}, "min_samples_leaf = 0"),
        ({"max_leaf_nodes": 1}, "max_leaf_nodes = 1: give a whole number, at least 2, or 0 for no limit"),
        ({"max_leaf_nodes": -1}, "max_leaf_nodes = -1"),
        ({"min_impurity_decrease": float("nan")}, "min_impurity_decrease = nan: give a number from 0"),
        ({"bootstrap": "yes"}, "bootstrap = yes: give true or false"),
        ({"max_samples": 1.5}, "max_samples = 1.5: give a number from 0 to 1"),
        ({"max_samples": 0.5, "bootstrap": False}, "max_samples = 0.5 .* bootstrap = false"),
        ({"class_weight": "even"}, 'class_weight = "even": known are "", "balanced", "balanced_subsample"'),
        ({"ccp_alpha": -0.1}, "ccp_alpha = -0.1"),
    ],
)
def test_a_parameter_out_of_range_is_a_config_error(change, message):
    X, y = DATA["iris"]
    with pytest.raises(ConfigError, match=message):
        train_trees(X, y, **{"first": 0, "count": 2, "trees": 5, "depth": 3, "seed": 42, **change})


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "a", "a"], "at least two classes"),
        (["a", "b"], "3 rows of features and 2 labels"),
        (["a", None, "b"], "missing"),
        ([0.5, 1.0, 1.5], "float64"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(y, message):
    with pytest.raises(ContractError, match=message):
        forest(np.zeros((3, 1)), y)


def test_class_codes_with_a_gap_are_refused():
    with pytest.raises(ContractError, match=r"0 to 1, got \[0, 2\]"):
        train_trees(np.zeros((3, 1)), np.array([0, 2, 0]), first=0, count=1, trees=1, depth=3, seed=0)


def test_a_missing_array_is_named():
    X, y = DATA["iris"]
    arrays = forest(X, y, trees=1).arrays()
    del arrays["threshold"]
    with pytest.raises(ContractError, match="no array threshold"):
        Forest.from_arrays(arrays, classes=["a", "b", "c"], n_features=4)


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def last_split(trees):
    return np.flatnonzero(trees.feature >= 0)[-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: replace(t, feature=changed(t.feature, 0, 4)),
        lambda t: replace(t, feature=changed(t.feature, 0, -1)),
        lambda t: replace(t, children_left=changed(t.children_left, 0, 0)),
        lambda t: replace(t, children_left=changed(t.children_left, 0, -7)),
        lambda t: replace(t, children_right=changed(t.children_right, 0, t.n_nodes[0])),
        lambda t: replace(t, children_right=changed(t.children_right, 0, 1)),
        lambda t: replace(t, children_left=changed(t.children_left, last_split(t), -1)),
        lambda t: replace(t, children_left=t.children_left.astype(np.float64)),
        lambda t: replace(t, n_nodes=changed(t.n_nodes, 0, t.n_nodes[0] + 1)),
        lambda t: replace(t, n_nodes=np.array([2**63 - 1, 2**63 - 1, t.n_nodes.sum() + 2])),
        lambda t: replace(t, n_nodes=changed(t.n_nodes, 0, 0)),
        lambda t: replace(t, n_nodes=t.n_nodes[:0]),
        lambda t: replace(t, n_nodes=t.n_nodes.sum()),
        lambda t: replace(t, value=t.value[:, :2]),
        lambda t: replace(t, value=t.value[:-1]),
        lambda t: replace(t, threshold=t.threshold[:-1]),
    ],
)
def test_arrays_that_are_no_trees_never_reach_the_kernel(damage):
    X, y = DATA["iris"]
    sound = forest(X, y, trees=2)
    arrays = replace(sound, trees=damage(sound.trees)).arrays()
    with pytest.raises(ContractError, match=r"are not trees of 4 features|does not fit"):
        Forest.from_arrays(arrays, classes=sound.classes, n_features=4)


@pytest.mark.parametrize("name", DATA)
def test_leaves_that_are_read_where_they_lie_are_the_same(name, monkeypatch):
    X, y = DATA[name]
    theirs = oracle(X, y, 10, 0, 7)
    monkeypatch.setattr(walk, "MAPPED", 0)
    np.testing.assert_array_equal(forest(X, y, trees=10, depth=0, seed=7).predict_proba(X), theirs.predict_proba(X))
