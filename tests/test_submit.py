import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medspark.errors import ConfigError
from medspark.submit import CHECKOUT, LOCAL_SETTINGS, complete

OWN_PYTHON = ["--conf", f"spark.pyspark.python={sys.executable}"]
LOCAL = [*OWN_PYTHON, "--properties-file", str(LOCAL_SETTINGS)]
INDEX = str(CHECKOUT / "jobs" / "index.py")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MASTER", raising=False)
    return tmp_path


def test_a_job_of_the_checkout_is_found_from_any_directory():
    assert complete(["jobs/index.py", "--input", "a b"]) == [*LOCAL, INDEX, "--input", "a b"]


def test_a_job_of_the_callers_directory_comes_first(elsewhere):
    (elsewhere / "jobs").mkdir()
    (elsewhere / "jobs" / "index.py").touch()
    assert complete(["jobs/index.py"]) == [*LOCAL, "jobs/index.py"]


def test_a_job_on_another_file_system_is_left_to_spark():
    assert complete(["hdfs://host/index.py"]) == [*LOCAL, "hdfs://host/index.py"]


@pytest.mark.parametrize(
    "options",
    [
        ["--master", "local[4]"],
        ["--master=local"],
        ["-v", "--conf", "spark.master=local[2]"],
        ["--name", "jobs/train.py", "--verbose"],
        ["--conf", "spark.executorEnv.A=b=c"],
    ],
)
def test_a_local_master_gets_the_local_settings_before_the_users(options):
    assert complete([*options, "jobs/index.py", "--master", "x"]) == [*LOCAL, *options, INDEX, "--master", "x"]


@pytest.mark.parametrize(
    "options",
    [
        ["--master", "spark://host:7077"],
        ["--master=yarn", "--conf", "spark.master=local"],
        ["-c", "spark.master=k8s://host"],
        ["--remote", "sc://host"],
    ],
)
def test_a_cluster_gets_the_users_options_alone(options):
    assert complete([*options, "jobs/index.py"]) == [*options, INDEX]


def test_the_variable_master_counts_when_no_option_names_one(monkeypatch):
    monkeypatch.setenv("MASTER", "spark://host:7077")
    assert complete(["jobs/index.py"]) == [INDEX]
    assert complete(["--master", "local", "jobs/index.py"]) == [*LOCAL, "--master", "local", INDEX]


def test_a_properties_file_of_the_user_replaces_ours():
    given = ["--properties-file", "mine.conf"]
    assert complete([*given, "jobs/index.py"]) == [*OWN_PYTHON, *given, INDEX]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--kill", "driver-1", "--master", "spark://host"]])
def test_a_question_to_spark_submit_is_passed_on(arguments):
    assert complete(arguments) == arguments


def test_a_mistyped_job_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no job 'jobs/indx.py' .* did you mean 'jobs/index.py'\?"):
        complete(["jobs/indx.py"])


def test_a_command_line_without_a_job_is_answered_with_the_usage():
    with pytest.raises(ConfigError, match=r"^usage: spark-submit.sh "):
        complete(["--master", "local"])


def test_a_checkout_without_an_environment_says_what_to_run(tmp_path):
    script = shutil.copy(CHECKOUT / "spark-submit.sh", tmp_path)
    ended = subprocess.run([script, "jobs/index.py"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"spark-submit.sh: there is no {tmp_path}/.venv: run `make setup` first\n"


@pytest.mark.spark
def test_a_job_runs_quietly_in_a_path_with_spaces_and_its_exit_code_comes_back(tmp_path):
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    script = shutil.copy(CHECKOUT / "spark-submit.sh", checkout)
    job = tmp_path / "a job.py"
    job.write_text("""\
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
workers = spark.sparkContext.parallelize(range(2), 2).map(lambda _: sys.executable).distinct().collect()
spark.range(3).write.parquet(sys.argv[1])
print(workers, spark.sparkContext.master, spark.conf.get("spark.sql.session.timeZone"), sys.argv[2])
sys.exit(3)
""")
    ended = subprocess.run(
        [script, "--master", "local[2]", job, "table", "--input=x y"], capture_output=True, text=True, check=False
    )
    assert ended.stdout == f"{[f'{checkout}/.venv/bin/python']} local[2] UTC --input=x y\n"
    # The JVM itself says this one, before any setting of ours is read.
    assert set(ended.stderr.splitlines()) <= {"WARNING: Using incubator modules: jdk.incubator.vector"}
    assert ended.returncode == 3
    assert Path("table", "_SUCCESS").exists()
