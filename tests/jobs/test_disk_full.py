"""A disk that is full: the tables stay as they were, and the message says which disk it is."""

import shutil
import subprocess
import sys

import pytest
from builders import make_pixels, make_png
from line import RECIPE, rows


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, which takes the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False
    )
    if not done or done.returncode:
        pytest.skip("no right to mount a small disk here")
    yield disk
    subprocess.run(["/bin/umount", "--lazy", disk], check=True)


def extract(archive, warehouse):
    command = [sys.executable, "-m", "medspark.cli", "extract", "--input", archive, "--warehouse", warehouse, *RECIPE]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tables(warehouse):
    return {name: rows(warehouse, name) for name in ("images", "features", "runs")}


def test_a_full_disk_is_named_and_leaves_the_tables_as_they_were(small_disk, tmp_path):
    archive, warehouse = tmp_path / "archive", small_disk / "warehouse"
    archive.mkdir()
    (archive / "one.png").write_bytes(make_png())
    assert extract(archive, warehouse).returncode == 0
    before = tables(warehouse)
    for number in range(20):
        (archive / f"{number}.png").write_bytes(make_png(make_pixels(seed=number)))
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(3 << 20))
    failed = extract(archive, warehouse)
    assert failed.returncode == 3
    last = failed.stderr.strip().splitlines()[-1]
    assert "failed, run again to continue: " in last
    assert f"No space left on device: the warehouse {warehouse} has " in last
    assert last.endswith(" bytes free")
    assert tables(warehouse) == before
    (small_disk / "filler").unlink()
    assert extract(archive, warehouse).returncode == 0
    assert len(rows(warehouse, "features")) == 21
