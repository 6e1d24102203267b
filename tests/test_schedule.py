"""The schedules of conf/schedule run the nightly job as the job wants it, and each system that reads one takes it.

The tools that a schedule is for are in an environment of their own, .venv-deploy, which ``make deploy`` makes.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import medspark
from medspark.config import load, parser
from medspark.spark.launch import DONE, ENGINE_FAILED, NOT_ACCEPTABLE, NOTHING_DONE

ROOT = Path(__file__).parents[1]
SCHEDULES = ROOT / "conf" / "schedule"
KUBERNETES = SCHEDULES / "kubernetes"
MANIFESTS = ("access", "storage", "cronjob")
NIGHT = "30 1 * * *"
# What shows whether a model of the operator's API has taken everything: it says nothing of what it does not know.
OPERATOR = """
import json, sys, yaml
from kubeflow_spark_api.models.spark_v1beta2_scheduled_spark_application import SparkV1beta2ScheduledSparkApplication
for document in yaml.safe_load_all(sys.stdin):
    model = SparkV1beta2ScheduledSparkApplication.from_dict(document)
    print(json.dumps([document, json.loads(model.to_json())]))
"""
# Airflow reads the DAG as its scheduler does, and the task as a worker does: with its variables put in.
AIRFLOW = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.execution_time.context import VariableAccessor
from airflow.sdk.exceptions import AirflowException

bag = DagBag(dag_folder=sys.argv[1])
(dag,) = bag.dags.values()
(task,) = dag.tasks
found = {
    "errors": bag.import_errors,
    "warnings": [str(each) for each in bag.captured_warnings.values()],
    "dag": [dag.dag_id, dag.schedule, dag.catchup, dag.max_active_runs],
    "task": [task.task_id, task.retries, task.retry_delay.total_seconds(), sorted(task.downstream_task_ids)],
    "ends": {},
}
task.render_template_fields({"var": {"value": VariableAccessor(deserialize_json=False)}})
for code in "0123":
    try:
        task.env_vars, task._hook = {"CODE": code}, None
        found["ends"][code] = task.execute({})
    except AirflowException as error:
        found["ends"][code] = type(error).__name__
print(json.dumps(found))
"""


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def documents(deploy, path):
    """Return the documents of a YAML file."""
    code = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
    read = run(deploy / "python", "-c", code, input=path.read_text("utf-8"))
    assert read.returncode == 0, read.stderr
    return json.loads(read.stdout)


def of_kind(found, kind):
    (one,) = (document for document in found if document["kind"] == kind)
    return one


def understood(options):
    """Return the configuration of a command line of the job; its file is that of this checkout."""
    options = [re.sub(r"/(etc/medspark|opt/medspark/conf)/", f"{ROOT}/conf/", option) for option in options]
    return load(parser("reprocess", "").parse_args(options))


@pytest.fixture
def checkout(tmp_path):
    """A checkout with nightly.sh, in which the job ends with the codes of a file, one after the other."""
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    shutil.copy(SCHEDULES / "nightly.sh", tmp_path / "conf" / "schedule")
    job = tmp_path / "spark-submit.sh"
    job.write_text("""\
#!/bin/sh
cd "$(dirname "$0")" || exit 9
printf '%s\\n' "$*" >>asked
echo said on stdout; echo said on stderr >&2
code=$(head -n 1 codes); sed -i 1d codes; exit "$code"
""")
    job.chmod(0o755)
    return tmp_path


def night(checkout, *codes, tries="3"):
    (checkout / "codes").write_text("".join(f"{code}\n" for code in codes))
    variables = {**os.environ, "MEDSPARK_PAUSE": "0", "MEDSPARK_TRIES": tries, "TMPDIR": str(checkout)}
    ended = run(checkout / "conf/schedule/nightly.sh", "--input", "a b", env=variables)
    asked = (checkout / "asked").read_text().splitlines()
    (checkout / "asked").unlink()
    assert set(asked) == {"jobs/reprocess.py --input a b"}
    assert not list(checkout.glob("tmp.*"))
    return ended, len(asked)


def test_a_good_night_sends_no_mail(checkout):
    ended, n_tries = night(checkout, DONE)
    assert (ended.returncode, ended.stdout, ended.stderr, n_tries) == (0, "", "", 1)


@pytest.mark.parametrize(
    ("code", "word"), [(NOT_ACCEPTABLE, "done, but not acceptable"), (NOTHING_DONE, "nothing done"), (137, "code 137")]
)
def test_what_would_come_out_the_same_is_told_once_with_all_that_the_job_said(checkout, code, word):
    ended, n_tries = night(checkout, code)
    assert (ended.returncode, n_tries) == (code, 1)
    first, *rest = ended.stdout.splitlines()
    assert first.startswith("medspark: ")
    assert word in first
    assert rest == ["said on stdout", "said on stderr"]


def test_a_run_that_met_another_one_is_tried_again_and_its_end_counts(checkout):
    ended, n_tries = night(checkout, ENGINE_FAILED, ENGINE_FAILED, DONE)
    assert (ended.returncode, ended.stdout, n_tries) == (0, "", 3)
    ended, n_tries = night(checkout, ENGINE_FAILED, NOT_ACCEPTABLE)
    assert (ended.returncode, n_tries) == (1, 2)
    ended, n_tries = night(checkout, ENGINE_FAILED, ENGINE_FAILED, tries="2")
    assert (ended.returncode, n_tries) == (3, 2)
    assert ended.stdout.splitlines()[0] == "medspark: failed in 2 tries, the next run will continue"


def test_cron_gets_one_line_with_a_time_and_a_command_that_is_there():
    lines = (SCHEDULES / "crontab").read_text().splitlines()
    (line,) = (line for line in lines if re.match(r"[\d*]", line))
    *when, command = line.split(maxsplit=5)
    assert " ".join(when) == NIGHT
    program, *options = shlex.split(command)
    assert os.access(program.replace("/opt/medspark", str(ROOT)), os.X_OK)
    assert "%" not in line  # cron would end the line there
    assert understood(options).run.max_failed == 0.05
    assert all(re.fullmatch(r"(#.*|[A-Z]+=\S+|)", each) for each in lines if each != line)


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """The units of systemd, with the programs of this checkout."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze: apt-get install systemd")
    place = tmp_path_factory.mktemp("units")
    for path in SCHEDULES.glob("medspark-nightly.*"):
        text = path.read_text().replace("/opt/medspark/spark-submit.sh", str(ROOT / "spark-submit.sh"))
        (place / path.name).write_text(text)
    return place


def unit(name):
    """Return the settings of a unit; of one that is given more than once the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", (SCHEDULES / f"medspark-nightly.{name}").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["service", "timer"])
def test_systemd_finds_no_fault_in_the_units(units, name):
    verified = run("systemd-analyze", "verify", "--man=no", units / f"medspark-nightly.{name}")
    assert (verified.returncode, verified.stderr) == (0, "")


def test_systemd_would_find_a_fault(units):
    broken = units / "broken.service"
    broken.write_text((units / "medspark-nightly.service").read_text().replace("Type=oneshot", "Type=onshot"))
    assert "onshot" in run("systemd-analyze", "verify", "--man=no", broken).stderr


def test_the_service_may_do_little(units):
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", units / "medspark-nightly.service").stdout
    assert float(re.search(r"Overall exposure level .*: ([\d.]+)", said)[1]) <= 1.5  # of 10; 9.6 without the settings


@pytest.mark.usefixtures("units")
def test_systemd_understands_the_time_as_it_is_meant():
    said = run("systemd-analyze", "calendar", "--base-time=2026-11-21 12:00:00 UTC", unit("timer")["OnCalendar"])
    assert "Next elapse: Sun 2026-11-22 01:30:00" in said.stdout


def test_the_service_runs_the_job_and_only_what_may_help_again():
    service = unit("service")
    program, job, *options = shlex.split(service["ExecStart"])
    assert (program, job) == ("/opt/medspark/spark-submit.sh", "jobs/reprocess.py")
    config = understood(options)
    assert (config.input, config.warehouse) == (("/srv/archive",), "/srv/warehouse")
    assert config.privacy.key_file.endswith("/" + service["LoadCredential"].split(":")[0])
    assert service["ReadWritePaths"] == config.warehouse
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == f"{NOT_ACCEPTABLE} {NOTHING_DONE}"
    assert "SuccessExitStatus" not in service


@pytest.fixture(scope="module")
def airflow(deploy, tmp_path_factory):
    """What Airflow makes of the DAG, and of a spark-submit.sh that ends with each of the codes."""
    home = tmp_path_factory.mktemp("airflow")
    submit = home / "spark-submit.sh"
    submit.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{home}/asked"\nexit "$CODE"\n')
    submit.chmod(0o755)
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "spark://master", "port": 7077}),
        "AIRFLOW_VAR_MEDSPARK_INPUT": "/srv/archive",
        "AIRFLOW_VAR_MEDSPARK_WAREHOUSE": "/srv/warehouse",
        "AIRFLOW_VAR_MEDSPARK_KEY_FILE": "/run/secrets/key",
        "MEDSPARK_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ended = run(deploy / "python", "-c", AIRFLOW, SCHEDULES / "airflow_dag.py", env=variables)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]), (home / "asked").read_text().splitlines()


def test_airflow_imports_the_dag_without_an_error_or_a_warning(airflow):
    found, _ = airflow
    assert (found["errors"], found["warnings"]) == ({}, [])
    assert found["dag"] == ["medspark_nightly", NIGHT, False, 1]
    assert found["task"] == ["reprocess", 3, 1200.0, []]


def test_airflow_gives_the_job_its_variables(airflow):
    _, asked = airflow
    at = asked.index("jobs/reprocess.py")
    assert asked[:at] == [
        *("--master", "spark://master:7077"),
        *("--name", "medspark-reprocess"),
        *("--deploy-mode", "client"),
    ]
    config = understood(asked[at + 1 :])
    assert (config.input, config.warehouse) == (("/srv/archive",), "/srv/warehouse")
    assert config.privacy.key_file == "/run/secrets/key"


def test_airflow_tries_again_only_what_may_help(airflow):
    found, _ = airflow
    final, again = "AirflowFailException", "AirflowException"
    assert found["ends"] == {"0": None, "1": final, "2": final, "3": again}


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_takes_the_manifests(deploy, version):
    paths = [KUBERNETES / f"{name}.yaml" for name in MANIFESTS]
    checked = run(deploy / "kubernetes-validate", "--strict", "-k", version, *paths)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count(" passed ") == 9


def test_kubernetes_would_not_take_a_setting_that_it_does_not_know(deploy, tmp_path):
    text = (KUBERNETES / "cronjob.yaml").read_text()
    (tmp_path / "cronjob.yaml").write_text(text.replace("concurrencyPolicy", "concurencyPolicy"))
    checked = run(deploy / "kubernetes-validate", "--strict", tmp_path / "cronjob.yaml")
    assert checked.returncode != 0
    assert "concurencyPolicy" in checked.stdout + checked.stderr


def unknown(given, taken, where=""):
    """Yield what a model has not taken over as it was given."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for key, value in given.items():
            yield from unknown(value, taken.get(key), f"{where}.{key}")
    elif isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        for number, pair in enumerate(zip(given, taken, strict=True)):
            yield from unknown(*pair, f"{where}[{number}]")
    elif given != taken:
        yield where


def operator(deploy, text):
    """Return what the operator's API does not take of a manifest."""
    ended = run(deploy / "python", "-c", OPERATOR, input=text)
    assert ended.returncode == 0, ended.stderr
    return list(unknown(*json.loads(ended.stdout)))


def test_the_spark_operator_takes_all_of_its_manifest(deploy):
    text = (KUBERNETES / "scheduledsparkapplication.yaml").read_text()
    assert operator(deploy, text) == []
    assert operator(deploy, text.replace("timeZone", "timezone")) == [".spec.timezone"]


@pytest.fixture(scope="module")
def cronjob(deploy):
    return of_kind(documents(deploy, KUBERNETES / "cronjob.yaml"), "CronJob")["spec"]


@pytest.fixture(scope="module")
def scheduled(deploy):
    (found,) = documents(deploy, KUBERNETES / "scheduledsparkapplication.yaml")
    return found["spec"]


def test_the_cronjob_runs_the_job_and_only_what_may_help_again(cronjob):
    assert (cronjob["schedule"], cronjob["concurrencyPolicy"]) == (NIGHT, "Forbid")
    job = cronjob["jobTemplate"]["spec"]
    fail, _ = job["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob"
    assert fail["onExitCodes"]["values"] == [NOT_ACCEPTABLE, NOTHING_DONE]
    (driver,) = job["template"]["spec"]["containers"]
    at = driver["args"].index("/opt/medspark/jobs/reprocess.py")
    program, *options = driver["args"][:at]
    assert program == "spark-submit"
    (settings,) = (option.split("=")[1] for option in options if option.startswith("--properties-file="))
    assert Path(settings.replace("/opt/medspark", str(ROOT))).is_file()
    mounted = {mount["mountPath"] for mount in driver["volumeMounts"]}
    config = understood(driver["args"][at + 1 :])
    assert {*config.input, config.warehouse, str(Path(config.privacy.key_file).parent)} <= mounted


def test_the_operator_runs_the_same_job(scheduled, cronjob):
    assert (scheduled["schedule"], scheduled["concurrencyPolicy"]) == (NIGHT, "Forbid")
    template = scheduled["template"]
    assert template["mainApplicationFile"] == "local:///opt/medspark/jobs/reprocess.py"
    (driver,) = cronjob["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert understood(template["arguments"]) == understood(driver["args"][-4:])


def pods(cronjob, scheduled, executor):
    """Yield the settings of each pod and of the container in it."""
    for pod in (cronjob["jobTemplate"]["spec"]["template"]["spec"], executor["spec"]):
        (container,) = pod["containers"]
        yield pod["securityContext"], container["securityContext"], container["volumeMounts"]
    for pod in (scheduled["template"]["driver"], scheduled["template"]["executor"]):
        yield pod["podSecurityContext"], pod["securityContext"], pod["volumeMounts"]


def test_no_pod_may_do_more_than_it_needs(deploy, cronjob, scheduled, tmp_path):
    template = of_kind(documents(deploy, KUBERNETES / "cronjob.yaml"), "ConfigMap")["data"]["executor.yaml"]
    (tmp_path / "executor.yaml").write_text(template)
    (executor,) = documents(deploy, tmp_path / "executor.yaml")
    found = list(pods(cronjob, scheduled, executor))
    assert len(found) == 4
    for pod, container, mounts in found:
        # The profile `restricted` of Kubernetes' Pod Security Standards, and a root that cannot be written besides.
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] == 185
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        places = {mount["mountPath"]: mount.get("readOnly", False) for mount in mounts}
        assert {place for place, is_read_only in places.items() if is_read_only} >= {"/archive"}
        assert {place for place, is_read_only in places.items() if not is_read_only} >= {"/tmp", "/warehouse"}  # noqa: S108


def test_the_driver_may_not_read_secrets(deploy):
    role = of_kind(documents(deploy, KUBERNETES / "access.yaml"), "Role")
    granted = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert granted == {"pods", "configmaps", "services", "persistentvolumeclaims"}


@pytest.mark.parametrize("name", ["docker/compose.yaml", "conf/schedule/kubernetes"])
def test_no_line_of_yaml_is_odd(deploy, name):
    rules = {
        "line-length": {"max": 120},
        "braces": {"max-spaces-inside": 0},
        "comments": {"min-spaces-from-content": 1},
    }
    told = run(deploy / "yamllint", "--strict", "-d", json.dumps({"extends": "default", "rules": rules}), ROOT / name)
    assert (told.returncode, told.stdout) == (0, "")


def test_every_image_is_of_this_version():
    texts = [path.read_text() for path in (*KUBERNETES.glob("*.yaml"), ROOT / "docker/compose.yaml")]
    images = re.findall(r"image[:=] ?(\S+)", "".join(texts))
    assert set(images) == {f"medspark:{medspark.__version__}"}
    assert len(images) == 4
