"""An archive on a real S3 server: the same rows as from a directory, and nothing lost when objects come and go."""

import hashlib
import os
from pathlib import Path

import pytest
import wards
from accounting import faults
from builders import make_pixels, make_png
from line import RECIPE, config, last_run, rows
from nights import Nights
from store import BUCKET, answer, error, serving
from wards import WARDS, zipped

from medspark.errors import UnreadableError
from medspark.files import Directory
from medspark.jobs import index
from medspark.spark.gone import _is_missing
from medspark.spark.guard import end_idle
from medspark.spark.listing import _listed_apart, is_listed_by, roots

ROOT = f"s3://{BUCKET}/wards"


BOTH = WARDS | {"röntgen/looks\\xe9shown.png": make_png(make_pixels(seed=3))}
STORE_ONLY = {"gone.png": make_png(), "leaves.png": make_png(), "closed.png": make_png(), "a//b.png": make_png()}
REASONS = wards.REASONS | {"gone.png": "vanished", "closed.png": "unreadable", "a//b.png": "unreadable"}


@pytest.fixture(scope="module")
def nights(tmp_path_factory, deploy):
    """What there was after each night."""
    home = tmp_path_factory.mktemp("nights")
    here, far = home / "of_directory", home / "of_store"
    for name, content in BOTH.items():
        path = home / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with serving(home, deploy) as store:
        store.put({f"wards/{name}": content for name, content in (BOTH | STORE_ONLY).items()} | {"wards/mark/": b""})
        store.put({"beside.png": make_png()})
        user = store.allow("nurse", but="wards/closed.png")
        session = Nights(os.environ | store.environment(*user))
        told = {"directory": session.run("extract", "--input", home / "archive", "--warehouse", here, *RECIPE)}
        told["index"] = session.run("index", "--input", ROOT.replace("s3:", "s3a:"), "--warehouse", far)
        store.delete("wards/gone.png")
        told["extract"] = session.run("extract", "--warehouse", far, *RECIPE)
        first = {name: rows(far, name) for name in ("images", "features")}
        # What stands before the separator is an archive to those who add up.
        names = {name.partition("!/")[0].replace("looks\\", "looks\\x5c") for name in BOTH | STORE_ONLY}
        found = {"faults": faults(far, {f"{ROOT}/{name}" for name in names}), "counts": last_run(far)}
        store.delete("wards/leaves.png")
        store.put({"wards/study.zip": zipped(5)})
        told["second"] = session.run("index", "--input", ROOT, "--warehouse", far)
        second = {name: rows(far, name) for name in ("images", "features")}
        store.put({"wards/plain.png": BOTH["plain.png"], "wards/new.png": make_png(make_pixels(seed=8))})
        told["touched"] = session.run("extract", "--input", ROOT, "--warehouse", far, *RECIPE)
        third = {name: rows(far, name) for name in ("images", "features")}
        told["one"] = session.run("index", "--input", f"{ROOT}/plain.png", "--warehouse", far)
        told["nothing"] = session.run("index", "--input", f"s3://{BUCKET}/nothing", "--warehouse", far)
        end = session.end()
    by_place = {"first": first, "second": second, "third": third}
    by_place |= {"one": {name: rows(far, name) for name in second}, "local": {"features": rows(here, "features")}}
    return found | by_place | {"told": told, "end": end, "secret": user[1], "home": home}


def by_name(table, root):
    return {(row["path"].removeprefix(f"{root}/"), row.get("frame")): row for row in table}


def test_every_job_did_its_work_and_the_session_ended_without_a_word(nights):
    done = {key: value for key, value in nights["told"].items() if key != "nothing"}
    assert done == dict.fromkeys(done, 0)
    assert nights["end"] == (0, [])


def test_the_features_of_objects_are_those_of_files_bit_for_bit(nights):
    local, far = (by_name(nights[name]["features"], root) for name, root in
                  (("local", nights["home"] / "archive"), ("first", ROOT)))  # fmt: skip
    assert {name for name, _ in far} - {name for name, _ in local} == {"leaves.png"}
    assert len(local) == 10
    own = ("path", "modified_at")
    for place, row in local.items():
        assert {key: value for key, value in far[place].items() if key not in own} == {
            key: value for key, value in row.items() if key not in own
        }, place


def test_every_object_has_the_status_and_reason_it_deserves_and_the_sums_are_right(nights):
    assert nights["faults"] == []
    images = by_name(nights["first"]["images"], ROOT)
    reasons = {name: row["reason"] for (name, _), row in images.items() if row["status"] == "quarantined"}
    assert reasons == REASONS
    assert {name for (name, _), row in images.items() if row["status"] == "skipped"} == {".hidden/x.png"}
    assert {row["relative_path"] for row in images.values()} == {name for name, _ in images}
    assert {row["input"] for row in images.values()} == {ROOT}
    counts = {key: value for key, value in nights["counts"].items() if key.startswith("n_")}
    assert counts == {"n_listed": 16, "n_processed": 9, "n_unchanged": 0, "n_skipped": 1, "n_quarantined": 6}


def test_the_content_is_that_of_the_objects(nights):
    hashes = {name: row["content_sha256"] for (name, _), row in by_name(nights["first"]["images"], ROOT).items()}
    for name in ("plain.png", "with space 100%25.png", "h#ash?a+b=[x].png", "röntgen/汉字/frames.dcm"):
        assert hashes[name] == hashlib.sha256(BOTH[name]).hexdigest()


def test_what_left_the_store_is_gone_and_an_object_given_alone_says_nothing_of_those_beside_it(nights):
    def gone(table):
        return {name for (name, _), row in by_name(table, ROOT).items() if row["gone_at"] is not None}

    assert not gone(nights["first"]["features"])
    left = {"gone.png", "leaves.png", "study.zip!/in side/6.png"}
    assert gone(nights["second"]["images"]) == left
    assert gone(nights["second"]["features"]) == left - {"gone.png"}
    assert by_name(nights["one"]["images"], ROOT).keys() == {("plain.png", None)}
    assert nights["one"]["features"] == nights["third"]["features"]


def test_a_touched_object_is_hashed_and_those_after_it_are_still_read(nights):
    before, after = (by_name(nights[night]["images"], ROOT) for night in ("first", "third"))
    statuses = {name: after[name, None]["status"] for name in ("plain.png", "new.png", "study.zip!/in side/5.png")}
    assert statuses == {"plain.png": "unchanged", "new.png": "processed", "study.zip!/in side/5.png": "unchanged"}
    assert after["plain.png", None]["modified_at"] > before["plain.png", None]["modified_at"]


def test_what_was_in_an_archive_that_is_there_and_cannot_be_looked_into_is_not_gone():
    member = f"{ROOT}/study.zip!/x"
    assert [_is_missing(member, is_opened=known) for known in (None, True, False)] == [True, True, False]


def test_a_prefix_that_is_not_there_stops_the_job(nights):
    assert nights["told"]["nothing"] == f"ConfigError: --input s3://{BUCKET}/nothing: no such object, and as a prefix it holds none"  # fmt: skip  # noqa: E501


def test_no_secret_is_in_any_file_that_a_run_leaves(nights):
    files = [path for path in nights["home"].rglob("*") if path.is_file() and path.name != "server.log"]
    assert len(files) > 50
    assert not [path for path in files if nights["secret"].encode() in path.read_bytes()]


@pytest.fixture
def silent(monkeypatch):
    """An endpoint that nobody listens at."""
    names = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "not-to-be-told", "AWS_REGION": "us-east-1"}
    for name, value in (names | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}).items():
        monkeypatch.setenv(name, value)
    end_idle()
    yield
    end_idle()


@pytest.mark.usefixtures("silent")
def test_a_store_that_cannot_be_asked_stops_the_job_with_the_way_out(tmp_path):
    options = config("--input", f"{ROOT}/x", "--warehouse", tmp_path)
    kind, message = error(index.require_places, options)
    assert kind == "ConfigError"
    assert message == (
        f"--input {ROOT}/x: cannot be looked at: network connection. Look at the name, the network, AWS_ENDPOINT_URL,"
        " AWS_REGION or HADOOP_CONF_DIR, and the credentials (docs/storage.md)"
    )


def test_credentials_in_an_input_are_refused_and_not_repeated(tmp_path):
    options = config("--input", "s3://AKIA:hunter2@bucket/x", "--warehouse", tmp_path)
    kind, message = error(index.require_places, options)
    assert kind == "ConfigError"
    assert "AKIA" not in message
    assert "hunter2" not in message


@pytest.mark.usefixtures("silent")
def test_a_prefix_that_cannot_be_listed_later_on_fails_the_job():
    root = ROOT.encode()
    with pytest.raises(UnreadableError, match=f"{ROOT}: cannot be listed: network connection"):
        _listed_apart(Directory(root, root), is_deep=True)


def test_a_warehouse_on_this_machine_lies_in_no_store_and_gone_is_looked_for_where_the_listing_was(
    tmp_path, monkeypatch, deploy
):
    with serving(tmp_path, deploy) as store:
        store.put({"wards/a.zip": b"x", "wards/b": b"x"})
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        end_idle()
        assert not answer(is_listed_by, ROOT, str(Path("/warehouse")))
        assert answer(is_listed_by, f"s3n://{BUCKET}", f"{ROOT}/warehouse")
        assert answer(roots, (f"{ROOT}/", f"{ROOT}/a.zip")) == [ROOT, f"{ROOT}/a.zip!/"]
        end_idle()
