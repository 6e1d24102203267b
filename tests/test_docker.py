"""The image and the small cluster of docker/: the linters find no fault, and the image does what Spark asks of it.

The linters are in an environment of their own, .venv-deploy, which ``make deploy`` makes. No image is built here.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pyspark
import pytest
from packaging.requirements import Requirement

from medspark.config import load, parser
from medspark.java import java_home

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
SPARK = Path(pyspark.__file__).parent
POD = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:9",
    "SPARK_EXECUTOR_ID": "7",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "256m",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
    "SPARK_EXECUTOR_POD_NAME": "pod-7",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_LOCAL_IP": "127.0.0.1",
}


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def services(deploy):
    """The services of the small cluster, with what they have from each other."""
    code = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    read = run(deploy / "python", "-c", code, input=(DOCKER / "compose.yaml").read_text())
    return json.loads(read.stdout)["services"]


def test_hadolint_finds_no_fault_in_the_dockerfile(deploy):
    linted = run(deploy / "hadolint", DOCKER / "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")


def test_hadolint_would_find_a_package_without_a_version(deploy):
    text = (DOCKER / "Dockerfile").read_text()
    linted = run(deploy / "hadolint", "-", input=text.replace("tini=${TINI_VERSION}", "tini"))
    assert "DL3008" in linted.stdout


@pytest.mark.parametrize("script", ["docker/entrypoint.sh", "conf/schedule/nightly.sh"])
def test_shellcheck_finds_no_fault_in_a_script(deploy, script):
    linted = run(deploy / "shellcheck", ROOT / script)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_compose_file_is_one_by_its_specification(deploy, tmp_path):
    checked = run(deploy / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    assert run(deploy / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong).returncode == 1


def test_every_service_has_limits_and_a_root_that_cannot_be_written(services):
    assert services.keys() == {"master", "worker-1", "worker-2", "nightly", "history"}
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


def test_nothing_is_open_to_other_machines_and_no_secret_stands_in_the_file(services):
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:18080:18080"]
    assert {name for name, service in services.items() if "cluster" not in service["networks"]} == {"history"}
    # Who talks to whom under the secret; and the key of the pseudonyms is for the driver alone.
    assert {name for name, service in services.items() if "spark.conf" in service.get("secrets", ())} == {
        *("master", "worker-1", "worker-2", "nightly")
    }
    assert [name for name, service in services.items() if "medspark.key" in service.get("secrets", ())] == ["nightly"]
    assert "secret " not in (DOCKER / "compose.yaml").read_text()


def test_the_service_of_the_night_is_the_nightly_job(services):
    command = services["nightly"]["command"]
    at = command.index("/opt/medspark/jobs/reprocess.py")
    options = [option.replace("/opt/medspark", str(ROOT)) for option in command[at + 1 :]]
    config = load(parser("reprocess", "").parse_args(options))
    mounted = {re.sub(r"^(\$\{.*?\}|[\w-]+):", "", volume).split(":")[0] for volume in services["nightly"]["volumes"]}
    assert {*config.input, config.warehouse, "/events", "/scratch"} <= mounted
    assert config.privacy.key_file == "/run/secrets/medspark.key"


@pytest.mark.spark
@pytest.mark.parametrize("name", ["master", "worker-1"])
def test_sparks_daemons_understand_their_options(services, name, tmp_path):
    secrets = tmp_path / "spark.conf"
    secrets.touch()
    program, *words = [word.replace("/run/secrets/spark.conf", str(secrets)) for word in services[name]["command"]]
    home = {"JAVA_HOME": str(java_home()), "SPARK_HOME": str(SPARK)}

    def understands(*words):
        return run(SPARK / "bin" / program, *words, env=os.environ | home).returncode == 0

    # Asked for help in the end, they read all that stands before it, and do not start.
    assert understands(*words, "--help")
    at = words.index("--properties-file")
    assert not understands(*words[:at], "=".join(words[at : at + 2]), *words[at + 2 :], "--help")


def dockerfile(instruction):
    """Return what stands behind an instruction, each time, with continued lines as one."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)


def test_only_what_the_dockerfile_copies_is_sent_to_the_builder():
    copied = {word for line in dockerfile("COPY") for word in line.split()[:-1] if not word.startswith("--")}
    copied -= {"/opt"}  # from the other stage
    rules = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    first, *others = (rule for rule in rules if rule and not rule.startswith("#"))
    assert first == "*"
    assert {rule[1:] for rule in others if rule.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert "conf/local.toml" in others


def test_the_image_has_what_the_lock_file_says_and_a_user_who_is_not_root():
    (uses,) = {line.split()[0] for line in dockerfile("FROM")}
    assert uses == "${PYTHON_IMAGE}"
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", dockerfile("ARG")[0])
    installs = re.findall(r"pip install ([^&]*)", " ".join(dockerfile("RUN")))
    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
    assert dockerfile("USER") == ["185:185"]


def test_the_environment_of_the_linters_holds_pins_and_hashes_and_what_is_asked_for():
    lock = (DOCKER / "requirements-check.txt").read_text()
    pin = r"[a-z0-9._-]+==[0-9][\w.]*( ; [^/@]+)? \\\n"
    digest = r"    --hash=sha256:[0-9a-f]{64}"
    assert re.fullmatch(rf"(#.*\n)*({pin}({digest} \\\n)*{digest}\n)+", lock)
    for line in (DOCKER / "requirements-check.in").read_text().splitlines():
        if not line.startswith("#"):
            asked = Requirement(line)
            (version,) = re.findall(rf"^{asked.name}==(\S+)", lock, re.MULTILINE)
            assert version in asked.specifier


@pytest.fixture
def entrypoint(tmp_path):
    """Runs entrypoint.sh with a ``tini``, and with a Java and a Spark that print what they are asked."""
    tini, java, submit = tmp_path / "tini", tmp_path / "bin/java", tmp_path / "bin/spark-submit"
    tini.write_text('#!/bin/sh\n[ "$1 $2" = "-s --" ] && shift 2 && exec "$@"\n')
    java.parent.mkdir()
    for program in (java, submit):
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    for program in (tini, java, submit):
        program.chmod(0o755)
    base = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JAVA_HOME": str(tmp_path), "SPARK_HOME": str(tmp_path)}

    def enter(*arguments, **variables):
        return run(DOCKER / "entrypoint.sh", *arguments, env=base | variables, cwd=tmp_path)

    return enter


def test_a_command_is_run_as_it_is_and_its_exit_code_comes_back(entrypoint):
    ended = entrypoint("sh", "-c", 'echo "$1"; exit 3', "-", "a  b")
    assert (ended.stdout, ended.returncode) == ("a  b\n", 3)


def test_a_driver_is_a_submit_in_client_mode_that_answers_at_the_address_of_its_pod(entrypoint, tmp_path):
    ended = entrypoint("driver", "--class", "X", "local:///job.py", "a b", SPARK_DRIVER_BIND_ADDRESS="10.0.0.7")
    assert ended.stdout.splitlines() == [
        str(tmp_path / "bin/spark-submit"),
        *("--deploy-mode", "client", "--conf", "spark.driver.bindAddress=10.0.0.7"),
        *("--class", "X", "local:///job.py", "a b"),
    ]


def test_the_options_of_an_executors_java_keep_their_order_and_their_spaces(entrypoint):
    options = {f"SPARK_JAVA_OPT_{number}": f"-Da={number} x" for number in range(11)}
    asked = entrypoint("executor", **POD, **options).stdout.splitlines()[1:]
    assert asked[:11] == [f"-Da={number} x" for number in range(11)]
    assert asked[11:13] == ["-Xms256m", "-Xmx256m"]


@pytest.mark.spark
def test_spark_understands_what_an_executor_is_given(entrypoint):
    home = {"JAVA_HOME": str(java_home()), "SPARK_HOME": str(SPARK)}
    opens = "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"
    ended = entrypoint("executor", **POD, **home, SPARK_JAVA_OPT_0=opens, SPARK_JAVA_OPT_1="-XX:TieredStopAtLevel=1")
    said = ended.stdout + ended.stderr
    assert "Usage" not in said
    # It has got as far as the driver's address, where nobody is.
    assert re.search(r"Failed to connect to .*127\.0\.0\.1:9\b", said), said[-2000:]
