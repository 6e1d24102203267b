"""One Spark session for the whole run, and the shared data where there is some."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything starts Spark: executors must run this Python, on a Java that was found the way the jobs find it.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["MEDSPARK_KEY"] = "a key for tests, not for patients"
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

settings.register_profile("medspark", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("medspark")

SHARED = Path(os.environ.get("MEDSPARK_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_configure():
    from medspark.java import ensure_java

    ensure_java()


def pytest_collection_modifyitems(items):
    for item in items:
        if "spark_session" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images to test on. Not part of the project: without them such tests are skipped, but never in CI."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the shared test data, and {SHARED} is not there (MEDSPARK_TEST_DATA)")
        pytest.skip(f"no shared test data in {SHARED} (set MEDSPARK_TEST_DATA)")
    return SHARED


@pytest.fixture(scope="session")
def deploy() -> Path:
    """Where the programs of an environment of others are: Airflow, linters, a server of S3."""
    place = Path(__file__).parents[1] / ".venv-deploy"
    if not (place / ".ready").exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs {place}: make deploy")
        pytest.skip(f"there is no {place}: make deploy")
    return place / "bin"


@pytest.fixture(scope="session")
def spark(spark_session):
    spark_session.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    spark_session.sparkContext.setLogLevel("ERROR")
    return spark_session


@pytest.fixture(scope="session")
def hospital(spark, tmp_path_factory):
    """A synthetic archive that went through the whole line once; many tests look at it, none may write to it."""
    from line import Hospital, run

    from medspark.jobs import extract, index, report, score, train
    from medspark.phantom import write_archive

    home = tmp_path_factory.mktemp("hospital")
    archive, warehouse = home / "archive", home / "warehouse"
    done = Hospital(archive, warehouse, write_archive(archive, patients=10, seed=3))
    jobs = {"index": index, "extract": extract, "train": train, "score": score, "report": report}
    for name, job in jobs.items():
        inputs = ("--input", archive) if name == "index" else ()
        options = (*inputs, "--warehouse", warehouse, "--labels", done.inventory.labels)
        done.codes[name], done.printed[name] = run(job, spark, *options)
    return done
