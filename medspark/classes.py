"""The classes of Spark as Java has read and verified them, kept in a file that every later start maps into memory.

Java calls it a dynamic archive of class data sharing (JEP 350). Most of what a session costs until its first task is
reading and verifying thousands of classes; ``make setup`` writes the archive once.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from medspark.errors import ConfigError
from medspark.java import class_archive, java_home
from medspark.phantom import write_png_set


def write() -> Path | None:
    """Write the archive of this Java and this Spark if it is not there; None if this Java cannot make one.

    The classes are those that an extract of a few images needs. Raises ConfigError if there is no Java.
    """
    archive = class_archive(java_home())
    if archive.exists():
        return archive
    draft = archive.with_name(f"{archive.name}.{os.getpid()}")
    with tempfile.TemporaryDirectory() as place:
        write_png_set(Path(place, "images"), n=4, size=64)
        job = str(files("medspark.jobs") / "extract.py")
        options = ["--input", f"{place}/images", "--warehouse", f"{place}/warehouse"]
        subprocess.run(  # noqa: S603 - our own job
            [sys.executable, "-m", "medspark.submit", job, *options],
            env={**os.environ, "SPARK_SUBMIT_OPTS": f"-XX:ArchiveClassesAtExit={shlex.quote(str(draft))}"},
            capture_output=True,
            check=False,
        )
    if not draft.exists():
        return None
    return draft.replace(archive)


def main() -> int:
    """Write the archive and say where it is."""
    try:
        archive = write()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{archive or 'none: this Java makes no archive, and sessions start more slowly'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
