"""Images that stand on both sides of a split though they show the same thing, found before anything is trained."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from medspark import fingerprint
from medspark.spark import tables

NEIGHBOURS = 256
"""With how many of the frames that have a key in common with it a frame is compared, at most, on either side."""

FRAMES = ("path", "frame", "content_sha256", "fingerprint")
ROWS = ("path", "frame", "patient_id", "label", "side", "group")
PAIRS = ("path_a", "frame_a", "path_b", "frame_b", "kind", "distance")

_SCHEMA = "path_a string, frame_a int, path_b string, frame_b int, kind string, distance double"
_NAMES = pa.schema([("name", pa.string()), ("lowest", pa.string())])


def near_duplicates(frames: DataFrame) -> DataFrame:
    """Return the pairs of frames that show the same thing: path_a, frame_a, path_b, frame_b, kind, distance.

    ``frames`` has path, frame, content_sha256 and fingerprint (binary; of flat images null, and they are in no pair),
    one row for each frame, and is read several times, for the first time when this is called. ``kind`` is "same_bytes"
    (the same frame of files with the same bytes, ``distance`` 0) or "near" (``distance`` up to
    ``fingerprint.THRESHOLD``). A pair is there once, the lower path first; the frames of one file are never paired.

    Frames are compared if they have a key in common, not all with all: each with the next ``NEIGHBOURS`` of that key,
    in the order of their places along one more axis, where copies are close. ``crowded`` tells what that left out.
    Raises ContractError for a column that is missing.
    """
    known = _known(frames)
    pairs = _candidates(_ranked(_keyed(known))).distinct()
    for side in "ab":
        facts = known.select(F.struct("path", "frame").alias(f"image_{side}"), *_of_side(side))
        pairs = pairs.join(facts, f"id_{side}")
    images = ("image_a", "image_b")
    ends = zip((F.least(*images), F.greatest(*images)), "ab", strict=True)
    places = (image[name].alias(f"{name}_{side}") for image, side in ends for name in ("path", "frame"))
    is_same = F.col("image_a.frame") == F.col("image_b.frame")
    is_same &= F.coalesce(F.col("content_sha256_a") == F.col("content_sha256_b"), F.lit(False))
    looked_up = pairs.select(*places, is_same.alias("is_same"), "fingerprint_a", "fingerprint_b")
    return looked_up.mapInArrow(_verified, _SCHEMA)


def crowded(frames: DataFrame) -> DataFrame:
    """Return a row for each key that more frames share than are compared: key, n_frames, n_left_out.

    ``n_left_out`` counts pairs, those within a file too; what is left out here may have been compared for another key.
    ``frames`` is as for ``near_duplicates``.
    """
    shared = _keyed(_known(frames)).groupBy("key").agg(F.count("*").alias("n_frames"))
    beyond = F.col("n_frames") - F.lit(NEIGHBOURS)
    # Of n frames in a row, n - k have one k places further on: what is left out is the sum over k > NEIGHBOURS.
    left_out = (beyond * (beyond - 1) / 2).cast("long").alias("n_left_out")
    return shared.where(beyond > 1).select("key", "n_frames", left_out)


def leaks(pairs: DataFrame, rows: DataFrame) -> DataFrame:
    """Return what is wrong with a split: kind, path_a, frame_a, path_b, frame_b, distance.

    ``pairs`` are those of ``near_duplicates``; ``rows`` has path, frame, patient_id, label, side ("train" or "test";
    null is on neither) and group. ``kind`` is "same_bytes" or "near" for a pair on two sides, "two_labels" for a pair
    with two labels on whatever sides, and "same_patient" for a patient on both sides: one row, with the first path of
    the training side, then that of the test side, and no distance. Raises ContractError for a column that is missing.
    """
    rows = tables.require(rows, ROWS, "the table of rows")
    sided = _with_rows(pairs, rows, ("side", "label"), "inner")
    across = F.when(F.col("side_a") != F.col("side_b"), F.col("kind"))
    two_labels = F.when(F.col("label_a") != F.col("label_b"), F.lit("two_labels"))
    kinds = F.explode(F.array_compact(F.array(across, two_labels))).alias("kind")
    places = ("path_a", "frame_a", "path_b", "frame_b", "distance")
    return sided.select(kinds, *places).unionByName(_same_patient(rows))


def grouped(pairs: DataFrame, rows: DataFrame) -> DataFrame:
    """Return path, frame and group, where the groups that a pair connects are one: duplicates stay on one side.

    ``pairs`` and ``rows`` are as for ``leaks``. The new group has the lowest name of those that it joins; a row without
    a group is named by its path. The names that pairs connect are collected, and joined on the driver: they are few, or
    the archive has other troubles. Raises ContractError for a column that is missing.
    """
    rows = tables.require(rows, ROWS, "the table of rows")
    own = F.coalesce("group", "path").alias("name")
    connected = _with_rows(pairs, rows, ("group",), "left").select(*(_name(side) for side in "ab"))
    edges = connected.where("name_a <> name_b").distinct().toArrow()
    lowest = _lowest(edges["name_a"].to_pylist(), edges["name_b"].to_pylist())
    named = rows.sparkSession.createDataFrame(pa.table([list(lowest), list(lowest.values())], _NAMES))
    together = rows.select("path", "frame", own).join(F.broadcast(named), "name", "left")
    return together.select("path", "frame", F.coalesce("lowest", "name").alias("group"))


def _name(side: str) -> Column:
    return F.coalesce(f"group_{side}", f"path_{side}").alias(f"name_{side}")


def _of_side(side: str) -> list[Column]:
    return [F.col(name).alias(f"{name}_{side}") for name in ("id", "content_sha256", "fingerprint")]


def _known(frames: DataFrame) -> DataFrame:
    # Two frames with one id would cost a comparison, no more: what is compared is looked up, and looked at.
    known = tables.require(frames, FRAMES, "the table of frames").where("length(fingerprint) > 0")
    return known.select(*FRAMES, F.xxhash64("path", "frame").alias("id"))


def _keyed(known: DataFrame) -> DataFrame:
    """Return a row for each frame and key: key, id, file, place."""
    parts = known.select("fingerprint").mapInArrow(_moments, "moments binary").collect()
    along = fingerprint.axes(fingerprint.summed(part["moments"] for part in parts))

    def keys(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            found, places = fingerprint.keys(_unpacked(batch.column("fingerprint")), along)
            columns = [batch.column("id"), batch.column("file"), pa.array(places), _lists(found)]
            yield pa.RecordBatch.from_arrays(columns, ["id", "file", "place", "keys"])

    facts = known.select("id", F.xxhash64("path").alias("file"), "fingerprint")
    looks = facts.mapInArrow(keys, "id long, file long, place double, keys array<long>")
    return looks.select(F.explode(F.array_distinct("keys")).alias("key"), "id", "file", "place")


def _ranked(keyed: DataFrame) -> DataFrame:
    order = Window.partitionBy("key").orderBy("place", "id")
    return keyed.withColumn("rank", F.row_number().over(order))


def _candidates(ranked: DataFrame) -> DataFrame:
    """Return id_a and id_b of the frames to compare, the lower one first, a pair for each key they share.

    Ranks are cut into blocks, each joined with itself and the next, so that a crowd costs no more than its window.
    """
    block = F.floor(F.col("rank") / NEIGHBOURS)
    a = ranked.select("key", block.alias("block"), *(F.col(name).alias(f"_{name}") for name in ("id", "file", "rank")))
    b = ranked.select("key", F.explode(F.array(block, block - 1)).alias("block"), "id", "file", "rank")
    ahead = F.col("rank") - F.col("_rank")
    near = a.join(b, ["key", "block"]).where((ahead > 0) & (ahead <= NEIGHBOURS) & (F.col("file") != F.col("_file")))
    return near.select(F.least("id", "_id").alias("id_a"), F.greatest("id", "_id").alias("id_b"))


def _moments(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    parts = (fingerprint.moments(_unpacked(batch.column("fingerprint"))).to_bytes() for batch in batches)
    total = fingerprint.summed(parts).to_bytes()
    yield pa.RecordBatch.from_arrays([pa.array([total], pa.binary())], ["moments"])


def _verified(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        a, b = (_unpacked(batch.column(f"fingerprint_{side}")) for side in "ab")
        is_same = batch.column("is_same").to_numpy(zero_copy_only=False)
        apart = np.where(is_same, 0.0, fingerprint.distance(a, b))
        columns = [*(batch.column(name) for name in PAIRS[:4]), pa.array(np.where(is_same, "same_bytes", "near"))]
        found = pa.RecordBatch.from_arrays([*columns, pa.array(apart)], PAIRS)
        yield found.filter(pa.array(apart <= fingerprint.THRESHOLD))


def _unpacked(column: pa.Array) -> fingerprint.Fingerprints:
    return fingerprint.unpack(column.to_pylist())


def _lists(values: npt.NDArray[np.int64]) -> pa.Array:
    starts = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(starts, values.ravel())


def _with_rows(pairs: DataFrame, rows: DataFrame, names: Iterable[str], how: str) -> DataFrame:
    """Add columns of the rows to both sides of the pairs, with _a and _b at the end of their names."""
    pairs = tables.require(pairs, PAIRS, "the table of pairs")
    for side in "ab":
        facts = rows.select(*(F.col(name).alias(f"{name}_{side}") for name in ("path", "frame", *names)))
        pairs = pairs.join(facts, [f"path_{side}", f"frame_{side}"], how)
    return pairs


def _same_patient(rows: DataFrame) -> DataFrame:
    image = F.struct("path", "frame")
    first = (F.min(F.when(F.col("side") == name, image)).alias(side) for name, side in (("train", "a"), ("test", "b")))
    both = (
        rows.where("patient_id is not null").groupBy("patient_id").agg(*first).where("a is not null and b is not null")
    )
    ends = (F.col(side)[name].alias(f"{name}_{side}") for side in "ab" for name in ("path", "frame"))
    return both.select(F.lit("same_patient").alias("kind"), *ends, F.lit(None).cast("double").alias("distance"))


def _lowest(firsts: list[str], seconds: list[str]) -> dict[str, str]:
    """Return the lowest name that each is connected with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components  # the driver's alone

    names, ends = np.unique(np.array([*firsts, *seconds], object), return_inverse=True)
    links = coo_array((np.ones(len(firsts)), ends.reshape(2, -1)), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    _, lowest = np.unique(component, return_index=True)  # names are in order, so the first of a component is its lowest
    return dict(zip(names.tolist(), names[lowest[component]].tolist(), strict=True))
