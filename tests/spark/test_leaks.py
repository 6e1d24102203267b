"""Leaks: the join finds what comparing all with all finds, and problems are told as they are."""

import hashlib
import itertools

import cv2
import numpy as np
import pytest

from medspark.errors import ContractError
from medspark.fingerprint import THRESHOLD, distance, fingerprint, unpack
from medspark.spark.leaks import NEIGHBOURS, crowded, grouped, leaks, near_duplicates

FRAMES = "path string, frame int, content_sha256 string, fingerprint binary"
ROWS = "path string, frame int, patient_id string, label string, side string, group string"
PAIRS = "path_a string, frame_a int, path_b string, frame_b int, kind string, distance double"


def picture(seed, size=160):
    rng = np.random.default_rng(seed)
    layers = (rng.normal(size=(n, n)) / n for n in (4, 8, 16, 32))
    image = sum(cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC) for layer in layers)
    return np.rint((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def a_frame(path, image, frame=0):
    return path, frame, hashlib.sha256(image.tobytes()).hexdigest(), fingerprint(image)


def found(pairs):
    return {tuple(row)[:5] for row in pairs.collect()}


@pytest.fixture
def frames(spark):
    def make(*rows):
        return spark.createDataFrame(list(rows), FRAMES)

    return make


@pytest.fixture
def rows(spark):
    def make(*given):
        return spark.createDataFrame(list(given), ROWS)

    return make


@pytest.fixture
def pairs(spark):
    def make(*ends, kind="near", apart=0.001):
        return spark.createDataFrame([(a, 0, b, 0, kind, apart) for a, b in ends], PAIRS)

    return make


def archive():
    """Return 40 images, and of each second one a copy."""
    copies = itertools.cycle([
        lambda image: image[4:, :-5],
        lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
        lambda image: image[:-3, 2:].astype(np.int16) * 3 - 500,
        lambda image: image.copy(),
    ])  # fmt: skip
    for seed in range(40):
        yield a_frame(f"/a/{seed:02}.png", picture(seed))
        if seed % 2:
            yield a_frame(f"/{'ab'[seed % 3 > 0]}/copy of {seed}.png", next(copies)(picture(seed)))


def test_the_pairs_are_those_of_all_with_all(frames):
    rows = sorted(archive())
    a, b = np.triu_indices(len(rows), 1)
    prints = unpack([row[3] for row in rows])
    apart = distance(prints[a], prints[b])
    expected = {
        (rows[i][0], 0, rows[j][0], 0, "same_bytes" if rows[i][2] == rows[j][2] else "near"): d
        for i, j, d in zip(a, b, apart, strict=True)
        if d <= THRESHOLD
    }
    pairs = near_duplicates(frames(*rows).repartition(3)).collect()
    assert {tuple(row)[:5]: row["distance"] for row in pairs} == pytest.approx(expected, abs=1e-9)
    assert len(pairs) == 20
    assert sum(row["kind"] == "same_bytes" for row in pairs) == 5


def test_the_same_bytes_are_a_pair_at_no_distance_once_for_each_two_files(frames):
    image = picture(1)
    pairs = near_duplicates(frames(*(a_frame(path, image) for path in ("/c", "/a", "/b")), a_frame("/d", picture(2))))
    assert sorted(map(tuple, pairs.collect())) == [
        ("/a", 0, "/b", 0, "same_bytes", 0.0),
        ("/a", 0, "/c", 0, "same_bytes", 0.0),
        ("/b", 0, "/c", 0, "same_bytes", 0.0),
    ]


def test_frames_of_one_file_are_no_pair_and_those_of_two_have_their_numbers(frames):
    one, other = picture(1), picture(2)
    rows = [
        ("/b", 0, "same", fingerprint(one)),
        ("/b", 1, "same", fingerprint(one)),
        ("/b", 2, "same", fingerprint(other)),
    ]
    rows += [("/a", number, "same", print_) for _, number, _, print_ in rows]
    assert found(near_duplicates(frames(*rows))) == {
        *(("/a", number, "/b", number, "same_bytes") for number in range(3)),
        ("/a", 0, "/b", 1, "near"),
        ("/a", 1, "/b", 0, "near"),
    }


def test_what_has_no_fingerprint_is_in_no_pair_and_no_hash_is_no_equal_hash(frames):
    print_ = fingerprint(picture(1))
    rows = [("/a", 0, "same", None), ("/b", 0, "same", None), ("/c", 0, "same", b""), ("/d", 0, "same", b"")]
    rows += [("/e", 0, None, print_), ("/f", 0, None, print_)]
    assert found(near_duplicates(frames(*rows))) == {("/e", 0, "/f", 0, "near")}


def test_no_frames_have_no_pairs(frames):
    assert near_duplicates(frames()).collect() == []
    assert crowded(frames()).collect() == []


def test_a_crowd_is_compared_with_its_neighbours_and_what_is_left_out_is_counted(frames):
    more = 8
    crowd = frames(*((f"/{number:03}", 0, str(number), fingerprint(picture(1))) for number in range(NEIGHBOURS + more)))
    keys = crowded(crowd).collect()
    left_out = more * (more - 1) // 2
    assert {tuple(row)[1:] for row in keys} == {(NEIGHBOURS + more, left_out)}
    n = NEIGHBOURS + more
    assert near_duplicates(crowd).count() == n * (n - 1) // 2 - left_out


def test_a_column_that_is_missing_is_named(frames, rows, pairs):
    with pytest.raises(ContractError, match="the table of frames lacks fingerprint"):
        near_duplicates(frames().drop("fingerprint"))
    with pytest.raises(ContractError, match="the table of rows lacks side"):
        leaks(pairs(("/a", "/b")), rows().drop("side"))
    with pytest.raises(ContractError, match="the table of pairs lacks kind"):
        grouped(pairs(("/a", "/b")).drop("kind"), rows())


def test_a_pair_on_two_sides_is_a_leak_and_one_on_one_side_or_none_is_not(rows, pairs):
    some = rows(
        ("/a", 0, None, "x", "train", None),
        ("/b", 0, None, "x", "test", None),
        ("/c", 0, None, "x", "train", None),
        ("/d", 0, None, "x", None, None),
        ("/b", 1, None, "x", "train", None),
    )
    near = pairs(("/a", "/b"), ("/a", "/c"), ("/a", "/d"), ("/b", "/not a row"))
    same = pairs(("/b", "/c"), kind="same_bytes", apart=0.0)
    assert sorted(map(tuple, leaks(near.union(same), some).collect())) == [
        ("near", "/a", 0, "/b", 0, 0.001),
        ("same_bytes", "/b", 0, "/c", 0, 0.0),
    ]


def test_two_labels_of_one_image_are_a_problem_on_whatever_side(rows, pairs):
    some = rows(
        ("/a", 0, None, "x", "train", None),
        ("/b", 0, None, "y", "train", None),
        ("/c", 0, None, "y", "test", None),
        ("/d", 0, None, None, "test", None),
    )
    problems = leaks(pairs(("/a", "/b"), ("/a", "/c"), ("/c", "/d")), some)
    assert sorted(map(tuple, problems.collect())) == [
        ("near", "/a", 0, "/c", 0, 0.001),
        ("two_labels", "/a", 0, "/b", 0, 0.001),
        ("two_labels", "/a", 0, "/c", 0, 0.001),
    ]


def test_a_patient_on_both_sides_is_told_once_by_the_first_image_of_each(rows, pairs):
    some = rows(
        ("/b", 1, "p", "x", "train", None),
        ("/b", 0, "p", "x", "train", None),
        ("/c", 0, "p", "x", "train", None),
        ("/a", 3, "p", "x", "test", None),
        ("/d", 0, "p", "x", "test", None),
        ("/e", 0, "q", "x", "test", None),
        ("/f", 0, "q", "x", None, None),
        ("/g", 0, None, "x", "train", None),
        ("/h", 0, None, "x", "test", None),
    )
    assert list(map(tuple, leaks(pairs(), some).collect())) == [("same_patient", "/b", 0, "/a", 3, None)]


def test_groups_that_pairs_connect_become_one_under_the_lowest_name(rows, pairs):
    groups = {"/1": "m", "/2": "m", "/3": "k", "/4": "z", "/5": None, "/6": "y", "/7": None}
    some = rows(*((path, 0, None, "x", "train", group) for path, group in groups.items()))
    connected = grouped(pairs(("/2", "/3"), ("/3", "/4"), ("/1", "/2"), ("/5", "/6")), some)
    assert {row["path"]: row["group"] for row in connected.collect()} == {
        "/1": "k", "/2": "k", "/3": "k", "/4": "k", "/5": "/5", "/6": "/5", "/7": "/7",
    }  # fmt: skip
    assert connected.columns == ["path", "frame", "group"]


def test_an_image_that_is_no_row_connects_two_that_are(rows, pairs):
    some = rows(("/a", 0, None, "x", "train", "p"), ("/b", 0, None, "x", "train", "o"))
    connected = grouped(pairs(("/a", "~unlabelled"), ("/b", "~unlabelled")), some)
    assert {row["group"] for row in connected.collect()} == {"o"}


def test_without_pairs_each_keeps_its_group(rows, pairs):
    some = rows(
        ("/a", 0, None, "x", "train", "p"), ("/a", 1, None, "x", "train", "p"), ("/b", 0, None, "x", "test", None)
    )
    assert sorted(map(tuple, grouped(pairs(), some).collect())) == [("/a", 0, "p"), ("/a", 1, "p"), ("/b", 0, "/b")]
