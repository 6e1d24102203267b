import hashlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medspark.errors import ConfigError, ContractError
from medspark.split import folds, side, split

PATIENTS = [f"patient-{number}" for number in range(4000)]
SEEDS = st.integers(0, 2**32 - 1)


def labels_for(groups):
    return ["a"] * len(groups)


def test_the_side_is_the_sha256_of_seed_and_group():
    first = int(hashlib.sha256(b"side:42:P1").hexdigest()[:16], 16) / 2**64
    assert side("P1", test_fraction=first + 1e-9, seed=42) == "test"
    assert side("P1", test_fraction=first - 1e-9, seed=42) == "train"


def test_sides_and_folds_are_the_same_in_every_process_and_version():
    # Written down once: another answer would move patients of models that exist.
    names = ["P1", "P2", "P3", "P4", "Müller", "", "\udcff"]
    sides = [side(name, test_fraction=0.5, seed=42) for name in names]
    assert sides == ["train", "train", "test", "test", "test", "train", "train"]
    assert folds(names, ["a"] * 7, n_folds=3, seed=42).tolist() == [1, 2, 2, 1, 0, 0, 0]


@given(st.permutations(PATIENTS[:40] * 2), SEEDS, st.integers(1, 79))
@settings(deadline=None)
def test_a_patient_has_one_side_in_any_order_and_any_partition(rows, seed, cut):
    alone = {patient: side(patient, test_fraction=0.5, seed=seed) for patient in rows}
    whole = split(rows, labels_for(rows), test_fraction=0.5, seed=seed)
    assert whole.tolist() == [alone[patient] for patient in rows]
    for part in (rows[:cut], rows[cut:]):
        if len({alone[patient] for patient in part}) == 2:
            assert split(part, labels_for(part), test_fraction=0.5, seed=seed).tolist() == [alone[p] for p in part]


@given(st.integers(60, 500), st.integers(0, 500), SEEDS)
@settings(deadline=None)
def test_a_growing_archive_moves_nobody(before, more, seed):
    old, new = PATIENTS[:before], PATIENTS[: before + more]
    was = split(old, labels_for(old), test_fraction=0.3, seed=seed)
    now = split(new, labels_for(new), test_fraction=0.3, seed=seed)
    assert np.array_equal(now[:before], was)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_of_many_groups_about_the_fraction_is_tested(fraction, seed):
    share = np.mean(split(PATIENTS, labels_for(PATIENTS), test_fraction=fraction, seed=seed) == "test")
    assert abs(share - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / len(PATIENTS))  # four standard errors


@given(st.sampled_from(PATIENTS), SEEDS, st.floats(0.01, 0.98))
@settings(deadline=None)
def test_a_larger_fraction_only_adds_to_the_test_side(patient, seed, fraction):
    if side(patient, test_fraction=fraction, seed=seed) == "test":
        assert side(patient, test_fraction=fraction + 0.01, seed=seed) == "test"


def test_another_seed_is_another_split():
    one, two = (split(PATIENTS, labels_for(PATIENTS), test_fraction=0.5, seed=seed) for seed in (1, 2))
    assert 0.45 < np.mean(one == two) < 0.55


@given(
    st.lists(st.tuples(st.sampled_from(PATIENTS[:60]), st.sampled_from("abc")), min_size=61), st.integers(2, 7), SEEDS
)
@settings(deadline=None)
def test_a_patient_is_in_one_fold_and_those_of_one_class_are_dealt_out_evenly(rows, n_folds, seed):
    patients, labels = zip(*rows, strict=True)
    assume(len(set(patients)) >= n_folds)
    found = folds(patients, labels, n_folds=n_folds, seed=seed)
    fold_of = dict(zip(patients, found.tolist(), strict=True))
    assert found.tolist() == [fold_of[patient] for patient in patients]
    classes = {patient: frozenset(c for p, c in rows if p == patient) for patient in fold_of}
    for stratum in set(classes.values()):
        counts = np.bincount([fold_of[p] for p in fold_of if classes[p] == stratum], minlength=n_folds)
        assert len(counts) == n_folds
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(list(fold_of.values()), minlength=n_folds)
    assert sizes.max() - sizes.min() <= 1


@given(st.permutations(list(range(40))), SEEDS)
@settings(deadline=None)
def test_folds_do_not_depend_on_the_order_of_the_rows(order, seed):
    patients, labels = np.array(PATIENTS[:40]), np.array(list("ab" * 20))
    found = folds(patients.tolist(), labels, n_folds=3, seed=seed)
    assert folds(patients[order].tolist(), labels[order], n_folds=3, seed=seed).tolist() == found[order].tolist()


def test_folds_are_independent_of_the_side():
    found = folds(PATIENTS, labels_for(PATIENTS), n_folds=5, seed=42)
    is_trained = split(PATIENTS, labels_for(PATIENTS), test_fraction=0.2, seed=42) == "train"
    for chosen in (found[is_trained], found[~is_trained]):
        assert np.abs(np.bincount(chosen, minlength=5) / len(chosen) - 0.2).max() < 4 * np.sqrt(0.16 / len(chosen))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_that_leaves_a_side_empty_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"test_fraction = .* such as 0.2"):
        side("P1", test_fraction=fraction, seed=42)


@pytest.mark.parametrize("n_folds", [-1, 0, 1])
def test_fewer_than_two_folds_are_refused(n_folds):
    with pytest.raises(ConfigError, match=f"folds = {n_folds}"):
        folds(PATIENTS, labels_for(PATIENTS), n_folds=n_folds, seed=42)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(ConfigError, match="folds = 3: there are 2 groups"):
        folds(["P1", "P2", "P1"], list("aba"), n_folds=3, seed=42)


@pytest.mark.parametrize(("fraction", "empty"), [(1e-9, "test"), (1 - 1e-9, "train")])
def test_an_empty_side_says_so_and_the_way_out(fraction, empty):
    with pytest.raises(ConfigError, match=f"the {empty} side is empty: 3 groups .* seed = 42; use more patients"):
        split(["P1", "P2", "P3", "P3"], list("abab"), test_fraction=fraction, seed=42)


def test_a_class_that_is_only_tested_is_named():
    sides = split(PATIENTS[:20], labels_for(PATIENTS[:20]), test_fraction=0.5, seed=42)
    labels = np.where(sides == "test", "rare", "common")
    with pytest.raises(ConfigError, match=r"nothing to learn 'rare' from.*20 groups.*another seed"):
        split(PATIENTS[:20], labels, test_fraction=0.5, seed=42)
    swapped = np.where(sides == "train", "rare", "common")
    swapped[np.flatnonzero(sides == "train")[0]] = "common"  # a class that is only learned can still be split
    assert np.array_equal(split(PATIENTS[:20], swapped, test_fraction=0.5, seed=42), sides)


@pytest.mark.parametrize("nobody", [None, "", float("nan")])
def test_rows_without_a_group_are_counted_and_refused(nobody):
    with pytest.raises(ConfigError, match=r"1 of 3 rows have no group.*\[split\] by"):
        split(["P1", nobody, "P2"], list("abc"), test_fraction=0.5, seed=42)


def test_groups_and_labels_of_different_length_are_refused():
    with pytest.raises(ContractError, match="2 groups and 1 labels"):
        split(["P1", "P2"], ["a"], test_fraction=0.5, seed=42)
