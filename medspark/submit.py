"""What ``spark-submit.sh`` adds to a command line: the job's full path, settings, and on a cluster the environment.

Whatever the user says wins: an option, a --conf, a --properties-file.
"""

import http.client
import os
import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distribution, version
from pathlib import Path

from medspark import conf, ship
from medspark.errors import ConfigError, did_you_mean
from medspark.java import ensure_java

USAGE = "usage: spark-submit.sh [spark-submit options] jobs/NAME.py [job options]"
CHECKOUT = Path(__file__).parents[1]
SETTINGS = Path(conf.__path__[0], "spark")
SWITCHES = {"--help", "-h", "--load-spark-defaults", "--supervise", "--usage-error", "--verbose", "-v", "--version"}
WITHOUT_JOB = {"--help", "-h", "--kill", "--status", "--usage-error", "--version"}
CLUSTERS = {"spark://": "standalone", "yarn": "yarn", "k8s://": "kubernetes"}
SECRET = re.compile(r"(?i)secret|password|token|credential|access.?key|medspark_key")
DRIVER = Path(sys.executable).with_name("medspark-driver")  # not there before `make setup`
SECONDS = 5  # in which a master answers, or is not there


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the arguments for spark-submit: settings for the master, the environment if it is far, the job's path.

    A job is looked for in the working directory, then in the checkout. Raises ConfigError when no job is named or the
    named one does not exist, and when the cluster cannot be what the command line takes it for.
    """
    options, rest = _split(arguments)
    names = {name for name, _ in options}
    if names & WITHOUT_JOB:
        return list(arguments)
    if not rest:
        raise ConfigError(USAGE)
    job, before = _find(rest[0]), list(arguments[: -len(rest)])
    if "--remote" in names:
        return [*before, job, *rest[1:]]
    files = [Path(value) for name, value in options if name == "--properties-file"]
    said = _said(options, files)
    master = said.get("spark.master") or os.environ.get("MASTER") or "local[*]"
    defaults: dict[str, str] = {}
    shipped: list[str] = []
    if master.startswith("local"):
        cluster = "local"
        # Workers on this machine run in this environment, whatever PYSPARK_PYTHON the user's shell sets for others.
        added = {"spark.pyspark.python": sys.executable}
        is_ours = Path(job).absolute().parent == CHECKOUT / "jobs"
        if is_ours and DRIVER.exists() and "spark.pyspark.python" not in said:
            added["spark.pyspark.driver.python"] = str(DRIVER)
    else:
        cluster = _cluster_of(master)
        if not files or "--load-spark-defaults" in names:
            defaults = _defaults()
            said = defaults | said
        added = _for_cluster(cluster, master, said, job)
        shipped = _archives(cluster, said)
    settings = [*_added(added, said), *_layers(SETTINGS / f"{cluster}.conf", files, defaults)]
    return [*settings, *before, *shipped, job, *rest[1:]]


def properties(path: Path) -> dict[str, str]:
    """Return the settings of a properties file, as Spark reads it."""
    lines = re.findall(
        r"^[ \t]*([^#!\s=:][^\s=:]*)[ \t]*[=: \t][ \t]*(.*?)[ \t]*$", path.read_text("utf-8"), re.MULTILINE
    )
    return dict(lines)


def _split(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Part the options of spark-submit, as names and values, from the job and the job's own options."""
    options, rest = [], list(arguments)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if not equals and name not in SWITCHES and rest:
            value = rest.pop(0)
        options.append((name, value))
    return options, rest


def _said(options: Sequence[tuple[str, str]], files: Iterable[Path]) -> dict[str, str]:
    """Return the settings that the user gives, whichever way; of several the one that counts for spark-submit."""
    said: dict[str, str] = {}
    for file in files:
        said |= properties(file)
    said |= dict(value.split("=", 1) for name, value in options if name in {"--conf", "-c"} and "=" in value)
    named = {"--master": "spark.master", "--deploy-mode": "spark.submit.deployMode", "--archives": "spark.archives"}
    return said | {named[name]: value for name, value in options if name in named}


def _cluster_of(master: str) -> str:
    for start, name in CLUSTERS.items():
        if master.startswith(start):
            return name
    raise ConfigError(f"no master {master!r}: it is local[*], spark://HOST:PORT, yarn or k8s://HOST:PORT")


def _defaults() -> dict[str, str]:
    """Return the settings of the file of defaults, which spark-submit reads by itself."""
    file = Path(os.environ.get("SPARK_CONF_DIR") or _spark() / "conf", "spark-defaults.conf")
    return properties(file) if file.is_file() else {}


def _layers(ours: Path, files: Sequence[Path], defaults: Mapping[str, str]) -> list[str]:
    """Return the options for settings of ours, defaults and files of the user, of which a later one wins, line by line.

    spark-submit reads one file, the last; what stands in the others goes onto its command line, but no secret, which
    everybody on the machine could read there.
    """
    if not files and not defaults:
        return ["--properties-file", str(ours)]
    lines = {key: value for key, value in properties(ours).items() if key not in defaults}
    if not files:
        return _added(lines, {})
    for file in files[:-1]:
        lines |= properties(file)
        for key in filter(SECRET.search, lines):
            raise ConfigError(f"{key} of {file} would be seen by all: give that --properties-file as the last one")
    last = properties(files[-1])
    if any(map(SECRET.search, last)) and files[-1].stat().st_mode & 0o007:
        raise ConfigError(f"{files[-1]} holds a secret and everybody can read it: chmod 600 {files[-1]}")
    return _added(lines, last)


def _added(lines: Mapping[str, str], said: Mapping[str, str]) -> list[str]:
    """Return the options for settings that the user says nothing of."""
    return [word for key, value in lines.items() if key not in said for word in ("--conf", f"{key}={value}")]


def _for_cluster(cluster: str, master: str, said: Mapping[str, str], job: str) -> dict[str, str]:
    """Return the settings that follow from where the job is sent from and to; raise ConfigError if it cannot go there.

    In client mode the driver is here, and its Python is this one; in cluster mode it is one of the cluster.
    """
    is_client = said.get("spark.submit.deployMode", "client") == "client"
    added = {"spark.pyspark.driver.python": sys.executable} if is_client else {}
    if cluster == "kubernetes":
        _check_image(said, job, is_client=is_client)
        return added
    if not _brings_its_own(said):
        added["spark.pyspark.python"] = ship.PYTHON
    if cluster == "yarn":
        if not any(os.environ.get(name) for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR")):
            raise ConfigError("where YARN is stands in its configuration files: set HADOOP_CONF_DIR to their directory")
        if not is_client:
            python = said.get("spark.pyspark.python", ship.PYTHON)
            # spark-submit would hand on the variables of this machine.
            added |= {f"spark.yarn.appMasterEnv.PYSPARK{which}_PYTHON": python for which in ("", "_DRIVER")}
        return added
    if not is_client:
        raise ConfigError("a standalone master starts no Python job itself: leave out --deploy-mode cluster")
    address = _reach(master)
    # The workers call back: at the address that the way to the master starts from, unless it leads nowhere else.
    if "SPARK_LOCAL_IP" not in os.environ and not address.startswith(("127.", "::1")):
        added["spark.driver.host"] = address
    return added


def _check_image(said: Mapping[str, str], job: str, *, is_client: bool) -> None:
    images = ("spark.kubernetes.container.image", "spark.kubernetes.executor.container.image")
    if not any(image in said for image in images):
        raise ConfigError(f"on Kubernetes the image carries medspark: name it by --conf {images[0]}=REGISTRY/IMAGE:TAG")
    if not is_client and "://" not in job:
        raise ConfigError(f"in cluster mode the job is that of the image: local:///opt/medspark/jobs/{Path(job).name}")


def _brings_its_own(said: Mapping[str, str]) -> bool:
    """Tell whether the user has seen to the Python of the executors."""
    return "spark.pyspark.python" in said or "#environment" in said.get("spark.archives", "")


def _archives(cluster: str, said: Mapping[str, str]) -> list[str]:
    """Return the options that ship our environment, beside what the user ships."""
    if cluster == "kubernetes" or _brings_its_own(said):
        return []
    return ["--archives", ",".join(filter(None, (said.get("spark.archives"), ship.archives())))]


def _reach(master: str) -> str:
    """Return the address of this machine that a standalone master is reached from.

    Raises ConfigError when none of its addresses answers, where Spark would try for a minute, and when the master is of
    another Spark.
    """
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        try:
            with socket.create_connection((host, int(port)), SECONDS) as connection:
                address = str(connection.getsockname()[0])
        except (OSError, ValueError) as error:
            refused = f"no Spark master answers at {place} ({error})"
            continue
        theirs, ours = _spark_of(host, place), version("pyspark")
        if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
            raise ConfigError(
                f"the master {place} is of Spark {theirs}, and here is {ours}, which do not understand each other: "
                f"pip install 'pyspark=={theirs}' here, or update the cluster"
            )
        return address
    raise ConfigError(f"{refused}: is it running, is the port that of --master, and does a firewall let you through?")


def _spark_of(host: str, place: str) -> str | None:
    """Return the version of Spark that the page of a master shows, None where it shows none to us."""
    connection = http.client.HTTPConnection(
        host, int(os.environ.get("SPARK_MASTER_WEBUI_PORT", "8080")), timeout=SECONDS
    )
    try:
        connection.request("GET", "/")
        page = connection.getresponse().read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    found = re.search(r'class="version[^"]*">\s*([\d.]+)', page)
    return found[1] if found and place in page else None


def _find(job: str) -> str:
    """Return a job as the caller sees it, or else as it stands in the checkout; a URI is left to Spark."""
    if "://" in job or Path(job).exists():
        return job
    if (CHECKOUT / job).is_file():
        return str(CHECKOUT / job)
    jobs = [f"jobs/{path.name}" for path in (CHECKOUT / "jobs").glob("[!_]*.py")]
    raise ConfigError(f"no job {job!r} here or in {CHECKOUT}; {did_you_mean(job, jobs)}")


def _spark() -> Path:
    return Path(str(distribution("pyspark").locate_file("pyspark")))


def main() -> None:
    """Become spark-submit; the exit code is then the job's."""
    try:
        ensure_java()
        command = complete(sys.argv[1:])
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    # Another Spark or another driver Python that the user's shell names would not know this environment.
    os.environ.update(SPARK_HOME=str(_spark()), PYSPARK_DRIVER_PYTHON=sys.executable)
    submit = _spark() / "bin" / "spark-submit"
    os.execv(submit, [str(submit), *command])  # noqa: S606 - the user's own command line


if __name__ == "__main__":
    main()
