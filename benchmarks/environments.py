"""Makes an environment for each peer that medspark is compared with: its own packages beside medspark's kernels.

    python benchmarks/environments.py ray daft dask

``benchmarks/.envs/NAME`` holds what ``contestants/requirements/NAME.txt`` pins, the packages that a recipe needs at the
versions of requirements.lock, and this checkout. Spark is in none of them. One that is there and up to date stays.
"""

import argparse
import configparser
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
ENVS = HERE / ".envs"
REQUIREMENTS = HERE / "contestants" / "requirements"
LOCK = CHECKOUT / "requirements.lock"
NOT_FOR_A_RECIPE = {"pyspark", "deltalake", "jinja2", "matplotlib"}  # the engine, its tables and the report
BUILDS_THE_CHECKOUT = "setuptools"
LAST_LINES = 15  # of what pip says when it fails: the reason is among them


def ensure(name: str) -> Path:
    """Return the Python of a peer's environment, made anew unless it is up to date."""
    home = ENVS / name
    python, stamp, state = home / "bin" / "python", home / "up-to-date", _state(name)
    if stamp.is_file() and stamp.read_text() == state:
        return python
    ENVS.mkdir(exist_ok=True)
    (ENVS / ".gitignore").write_text("*\n")
    shutil.rmtree(home, ignore_errors=True)
    _run(name, [sys.executable, "-m", "venv", str(home)])
    install = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch, "pins.txt")
        pins.write_text("".join(f"{pin}\n" for pin in pins_beside(name)))
        peer = ["--requirement", str(REQUIREMENTS / f"{name}.txt")]
        wanted = [*peer, "--constraint", str(pins), *packages(), BUILDS_THE_CHECKOUT]
        _run(name, [*install, "--only-binary", ":all:", *wanted])
    _run(name, [*install, "--no-deps", "--no-build-isolation", "--editable", str(CHECKOUT)])
    stamp.write_text(state)
    return python


def packages() -> list[str]:
    """Return the names of what a recipe needs, the decoders among them, as setup.cfg has them."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"]["codecs"]
    return sorted(_named(lines) - NOT_FOR_A_RECIPE)


def pins_beside(name: str) -> list[str]:
    """Return the pins of the lock file but for packages that the peer pins itself, since it does not take ours.

    They are without hashes: pip would then ask for those of the peer's packages too.
    """
    own = _named((REQUIREMENTS / f"{name}.txt").read_text())
    pins = re.findall(r"^[a-z].*?(?= *\\$)", LOCK.read_text(), re.MULTILINE)
    return [pin for pin in pins if not own & _named(pin)]


def _named(requirements: str) -> set[str]:
    return set(re.findall(r"^[a-z][\w-]*", requirements, re.MULTILINE))


def _state(name: str) -> str:
    """Return what an environment depends on, as one hash."""
    files = [REQUIREMENTS / f"{name}.txt", LOCK, CHECKOUT / "setup.cfg", Path(__file__)]
    content = b"\0".join(path.read_bytes() for path in files)
    return hashlib.sha256(f"{sys.version}\0{CHECKOUT}\0".encode() + content).hexdigest()


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line and not line.startswith("WARNING")]
        said = "\n".join(lines[-LAST_LINES:])
        raise SystemExit(f"{name}: no environment, {' '.join(command[:4])} ended with {done.returncode}:\n{said}")


def main() -> None:
    """Make the environments that are asked for."""
    known = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="+", choices=known, metavar="NAME", help=f"one of: {', '.join(known)}")
    for name in options.parse_args().names:
        print(f"{name}: {ensure(name)}", flush=True)


if __name__ == "__main__":
    main()
