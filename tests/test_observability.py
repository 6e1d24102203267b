"""What docs/observability.md says of Spark's event log and of Prometheus, seen on a job that runs as it says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_dicom, make_pixels, make_png

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "observability.md").read_text("utf-8")
PATIENT = "ZZTOP^CANARY"
# A job that does its work twice, with a file less the second time, and asks for both pages before it ends.
JOB = """
import json, sys, urllib.request
from pathlib import Path
from medspark.config import load, parser
from medspark.jobs import extract
from medspark.spark.session import session

archive, warehouse = sys.argv[1:]
spark = session("extract")
config = load(parser("extract", "").parse_args(["--input", archive, "--warehouse", warehouse]))
extract.run(spark, config)
next(Path(archive).rglob("*.png")).unlink()
extract.run(spark, config)
told = {}
for address in ("/metrics/executors/prometheus/", "/metrics/prometheus/"):
    with urllib.request.urlopen(spark.sparkContext.uiWebUrl + address, timeout=30) as answer:
        told[address] = answer.read().decode()
print(json.dumps([spark.sparkContext.uiWebUrl, told]))
spark.stop()
"""


def options(of):
    """Return the settings of the line of the page in which a word stands."""
    (line,) = (line for line in re.findall(r"^\./spark-submit\.sh .*$", PAGE, re.MULTILINE) if of in line)
    words = shlex.split(line)
    return words[1 : next(i for i, word in enumerate(words) if word.startswith("jobs/"))]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The event log of a job, the address of its web page, and what that told."""
    home = tmp_path_factory.mktemp("observed")
    archive, events = home / "archive", home / "events"
    patient = archive / "Doe^John^19420229"
    patient.mkdir(parents=True)
    events.mkdir()
    for number in range(3):
        (patient / f"canary_scan_{number}.png").write_bytes(make_png(make_pixels(seed=number)))
        (patient / f"canary_slice_{number}.dcm").write_bytes(make_dicom(PatientName=PATIENT, PatientID="MRN-771"))
    (home / "job.py").write_text(JOB)
    said = [*options("eventLog"), *options("prometheusServlet")]
    said = [word.replace("file:///srv/events", events.as_uri()).replace("=4040", "=0") for word in said]
    command = [sys.executable, "-P", "-m", "medspark.submit", "--master", "local[2]", *said]
    ended = subprocess.run(
        [*command, "--conf", "spark.eventLog.compress=false", home / "job.py", archive, home / "warehouse"],
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    address, told = json.loads(ended.stdout.splitlines()[-1])
    (log,) = events.glob("*/events_1_*")
    return archive, log.read_text("utf-8"), address, told


@pytest.mark.spark
def test_the_event_log_names_the_inputs_and_no_file_or_patient(seen):
    archive, log, _, _ = seen
    events = [json.loads(line)["Event"] for line in log.splitlines()]
    assert events[-1] == "SparkListenerApplicationEnd"
    assert str(archive) in log
    assert [word for word in ("canary", "Doe^John", "19420229", "ZZTOP", "MRN-771") if word in log] == []
    # A pseudonym, or a hash of a file's bytes.
    assert re.findall(r"\b[0-9a-f]{64}\b", log) == []
    assert os.environ["MEDSPARK_KEY"] not in log


@pytest.mark.spark
def test_prometheus_gets_what_the_page_promises_and_nothing_of_the_archive(seen):
    archive, _, address, told = seen
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
    promised = set(re.findall(r"`(metrics_\w+)`", PAGE))
    given = {re.match(r"\w+", line)[0]: line for text in told.values() for line in text.splitlines() if line}
    assert promised <= given.keys()
    assert len(promised) > 4
    assert float(given["metrics_executor_completedTasks_total"].split()[-1]) > 5
    assert float(given["metrics_executor_failedTasks_total"].split()[-1]) == 0
    assert [word for word in (str(archive), "canary", "Doe^John") if word in "".join(told.values())] == []
