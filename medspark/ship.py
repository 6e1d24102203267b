"""What the executors of a cluster run: the installed packages, and medspark itself, as two archives that Spark ships.

They lie beside the environment under a name that says what is in them, and are written when there is none of that name:
the large one once for a lock file, the small one for each state of our own sources. Nothing in them knows where they
were made or where they are unpacked; only the Python has to be there, of the same minor version.
"""

import gzip
import hashlib
import importlib.util
import io
import marshal
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import medspark
from medspark import conf, jobs
from medspark.errors import ConfigError
from medspark.java import keeping_place

PYTHON = "./environment/bin/python"
"""The Python of an executor, seen from its working directory."""

_ON_THE_DRIVER_ONLY = ("dev", "java", "onnx")  # extras of ours that no job needs
_OF_SPARK = ("pyspark", "py4j")  # come with the Spark of the executor, and fit it
_FOR_COMPILERS = {".a", ".c", ".cc", ".cpp", ".h", ".hh", ".hpp", ".pxd", ".pyx"}
_TIME = 315532800  # of every file, 1980: the same content is the same archive
_KEPT_SECONDS = 7 * 86400  # longer than a run, whose executors may come for the archive until its end
_VERSION = "{}.{}".format(*sys.version_info)
_ABI = f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"

_START = f"""\
#!/bin/sh
# Starts a Python of this machine with the packages beside this file and none of its own.
here=$(cd -- "$(dirname -- "$0")/.." && pwd)
abi='import sys, sysconfig; sys.exit(sys.implementation.cache_tag + " " + sysconfig.get_platform() != "{_ABI}")'
unset PYTHONHOME
for python in "${{MEDSPARK_PYTHON:-python{_VERSION}}}" python3 python; do
    if "$python" -sSPc "$abi" 2>/dev/null; then
        export PYTHONPATH="$here/../package:$here/lib${{PYTHONPATH:+:$PYTHONPATH}}"
        exec "$python" -sSP "$@"
    fi
done
echo "medspark: no Python {_VERSION} ({_ABI}) on $(uname -n), which the shipped packages need: install it there," \\
    "or say where it is: --conf spark.executorEnv.MEDSPARK_PYTHON=/path/to/python{_VERSION}" >&2
exit 2
"""


def archives() -> str:
    """Return the value of ``spark.archives`` for an executor that runs ``PYTHON``; write what is not there yet.

    Raises ConfigError for a package whose files are not known, because it was installed from a directory in place.
    """
    packages = shipped()
    environment = _written("environment", _stamp(_records(packages)), lambda file: _pack_environment(file, packages))
    sources = dict(_sources())
    package = _written("medspark", _stamp(sources.items()), lambda file: _pack_medspark(file, sources))
    return f"{environment}#environment,{package}#package"


def shipped() -> dict[str, Distribution]:
    """Return what is installed, by name, but for what only development or the driver needs, and medspark itself."""
    installed: dict[str, Distribution] = {canonicalize_name(each.metadata["Name"]): each for each in distributions()}
    extras = set(installed["medspark"].metadata.get_all("Provides-Extra", ())).difference(_ON_THE_DRIVER_ONLY)
    tools = _closure([Requirement(f"medspark[{','.join(_ON_THE_DRIVER_ONLY)}]")], installed)
    roots = [Requirement(name) for name in installed.keys() - tools]
    needed = _closure([*roots, Requirement(f"medspark[{','.join(extras)}]")], installed)
    return {name: installed[name] for name in sorted(needed) if name != "medspark"}


def _closure(roots: Iterable[Requirement], installed: Mapping[str, Distribution]) -> set[str]:
    """Return the names of the installed packages that some requirements lead to."""
    found: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(root.name), extra) for root in roots for extra in {"", *root.extras}]
    while todo:
        name, extra = todo.pop()
        if name in installed and (name, extra) not in found:
            found.add((name, extra))
            for requirement in map(Requirement, installed[name].requires or ()):
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    todo += [(canonicalize_name(requirement.name), of) for of in {"", *requirement.extras}]
    return {name for name, _ in found}


def _records(packages: Mapping[str, Distribution]) -> Iterator[tuple[str, bytes]]:
    """Yield what says which files a package has, with their hashes."""
    yield "abi", _ABI.encode()
    for name, package in packages.items():
        record = package.read_text("RECORD")
        if record is None or '"editable": true' in (package.read_text("direct_url.json") or ""):
            raise ConfigError(
                f"the package {name} is installed in place, so its files cannot be shipped to a cluster: "
                f"install it as a copy (pip install, without --editable)"
            )
        yield name, record.encode()


def _sources() -> Iterator[tuple[str, bytes]]:
    """Yield the files of medspark, those of a checkout as of a wheel; but not the settings of this machine."""
    for package in (medspark, conf, jobs):
        top = Path(package.__path__[0])
        for path in sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.name != "local.toml":
                yield f"{package.__name__.replace('.', '/')}/{path.relative_to(top)}", path.read_bytes()


def _stamp(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())  # which also says how the archive is laid out
    for name, content in parts:
        digest.update(f"\n{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _written(name: str, stamp: str, pack: Callable[[tarfile.TarFile], None]) -> Path:
    """Return the archive of this name and stamp, packed if it is not there; remove those that nobody used for long."""
    archive = keeping_place() / f"{name}-{stamp}.tar.gz"
    if archive.exists():
        os.utime(archive)
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_suffix(f".{os.getpid()}")
    try:
        # The fastest compression: another would make a start wait three times as long for a tenth of the size.
        with (
            draft.open("wb") as file,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            pack(tar)
        draft.replace(archive)  # whole or not at all
    finally:
        draft.unlink(missing_ok=True)
    for old in archive.parent.glob(f"{name}-*.tar.gz"):
        if old.stat().st_mtime < time.time() - _KEPT_SECONDS:
            old.unlink(missing_ok=True)
    return archive


def _pack_environment(tar: tarfile.TarFile, packages: Mapping[str, Distribution]) -> None:
    _add(tar, "bin/python", _START.encode(), mode=0o755)
    for name, path in _progress(sorted(set(_files(packages)))):
        _add(tar, f"lib/{name}", path.read_bytes(), mode=path.stat().st_mode)
        if path.suffix == ".py":
            _add(tar, importlib.util.cache_from_source(f"lib/{name}"), _bytecode(path))


def _progress(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Yield the files; a terminal sees how far it is."""
    total, done, told = sum(path.stat().st_size for _, path in files), 0, -1
    text = f"medspark: packs the environment for the cluster, once ({total / 1e9:.1f} GB)"
    sys.stderr.write(text)
    for name, path in files:
        done += path.stat().st_size
        if sys.stderr.isatty() and (percent := 100 * done // total) > told:
            told = percent
            sys.stderr.write(f"\r{text}: {percent} %")
            sys.stderr.flush()
        yield name, path
    sys.stderr.write("\n")


def _files(packages: Mapping[str, Distribution]) -> Iterator[tuple[str, Path]]:
    """Yield name and place of what is of use to a process that imports the packages."""
    for package in packages.values():
        for file in package.files or ():
            is_of_use = file.suffix not in {*_FOR_COMPILERS, ".pyc"} and "tests" not in file.parts
            if is_of_use and file.parts[0] not in {"..", *_OF_SPARK}:
                path = Path(str(file.locate()))
                if path.is_file():
                    yield file.as_posix(), path


def _bytecode(path: Path) -> bytes:
    """Return a source compiled, in a form that Python takes whatever the time of the source."""
    cached = Path(importlib.util.cache_from_source(str(path)))
    source = path.stat()
    if cached.exists():
        content = cached.read_bytes()
        fresh = b"".join(int(number).to_bytes(4, "little") for number in (0, source.st_mtime, source.st_size))
        if content[:16] == importlib.util.MAGIC_NUMBER + fresh:
            return _header() + content[16:]
    return _header() + marshal.dumps(compile(path.read_bytes(), str(path), "exec", dont_inherit=True))


def _header() -> bytes:
    # PEP 552: by a hash of the source, which is not looked at.
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)


def _pack_medspark(tar: tarfile.TarFile, sources: Mapping[str, bytes]) -> None:
    """Pack the sources with their bytecode, and with the kernels that the default recipe has numba compile."""
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        for name, content in sources.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (_TIME, _TIME))  # what is compiled is known by the time of its source
        shell = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
        for arguments in (
            ("-m", "compileall", "-q", place),
            ("-c", "import medspark; medspark.Recipe.from_toml('default').feature_names"),
        ):
            subprocess.run([sys.executable, "-P", *arguments], env={**shell, "PYTHONPATH": place}, check=True)  # noqa: S603
        for path in sorted(path for path in top.rglob("*") if path.is_file()):
            _add(tar, str(path.relative_to(top)), path.read_bytes())


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(content), _TIME
    entry.mode = 0o755 if mode & 0o100 else 0o644
    tar.addfile(entry, io.BytesIO(content))
