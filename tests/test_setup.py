"""What stands between a clone and a working environment: Makefile, requirements.lock, setup.cfg, conf/spark."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


def asked_for():
    """Yield every requirement of setup.cfg that `make setup` serves."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    parts = (config["options"]["install_requires"], extras["codecs"], extras["dev"], extras["java"])
    return [line for part in parts for line in part.split()]


@pytest.mark.parametrize("requirement", [Requirement(line) for line in asked_for()], ids=lambda each: each.name)
def test_the_lock_has_a_version_that_setup_cfg_allows(requirement):
    (version,) = re.findall(rf"^{re.escape(requirement.name)}==(\S+)", LOCK, re.MULTILINE)
    assert version in requirement.specifier


def test_the_lock_holds_pins_hashes_and_comments_and_so_no_address_or_path():
    pin = r"[a-z0-9._-]+==[0-9][\w.]*( ; [^/@]+)? \\\n"
    digest = r"    --hash=sha256:[0-9a-f]{64}"
    assert re.fullmatch(rf"(#.*\n)*({pin}({digest} \\\n)*{digest}\n(    # .*\n)*)+", LOCK)
    assert "/" not in LOCK


def test_make_alone_lists_every_target_with_what_it_does():
    makefile = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    inside_make = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    listed = subprocess.run(
        ["make"],  # noqa: S607
        cwd=ROOT,
        env=inside_make,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[1] for line in listed.splitlines()] == targets.split()
    assert all(re.fullmatch(r"make \S+ +[A-Z].*\.", line) for line in listed.splitlines())


def test_every_local_setting_has_its_reason_on_the_line_before():
    lines = (ROOT / "conf" / "spark" / "local.conf").read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert settings
    for number in settings:
        assert re.fullmatch(r"spark(\.\w+)+ +\S.*", lines[number])
        assert lines[number - 1].startswith("# ")


def test_the_wheel_carries_the_jobs_and_every_configuration_file(tmp_path):
    source = tmp_path / "source"
    for name in ("medspark", "jobs", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "local.toml"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("medspark-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("jobs", "conf"):
        files = [path for path in (source / folder).rglob("*") if path.is_file()]
        assert files
        assert {f"medspark/{path.relative_to(source).as_posix()}" for path in files} <= packed
