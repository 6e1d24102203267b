import contextlib
import http.server
import itertools
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import hosts
import pyspark
import pytest

from medspark import ship
from medspark.errors import ConfigError
from medspark.submit import CHECKOUT, SETTINGS, complete, properties

OWN_PYTHON = ["--conf", f"spark.pyspark.python={sys.executable}"]
EARLY = str(Path(sys.executable).with_name("medspark-driver"))
LOCAL = [*OWN_PYTHON, "--properties-file", str(SETTINGS / "local.conf")]
LOCAL_JOB = [*OWN_PYTHON, "--conf", f"spark.pyspark.driver.python={EARLY}", *LOCAL[2:]]
INDEX = str(CHECKOUT / "jobs" / "index.py")
DRIVER = f"spark.pyspark.driver.python={sys.executable}"
THEIRS = ["--conf", "spark.pyspark.python=/opt/python"]
# As the page of a real master has it, 4.3.0.
PAGE = """
<title>Spark Master at {master}</title>
                  <span class="version me-3">{version}</span>
              <li><strong>URL:</strong> {master}</li>
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MASTER", "SPARK_CONF_DIR", "SPARK_LOCAL_IP", "HADOOP_CONF_DIR", "YARN_CONF_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def master(monkeypatch):
    """A port that answers as that of a master does, and no page beside it."""
    monkeypatch.setenv("SPARK_MASTER_WEBUI_PORT", str(unused_port()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"spark://127.0.0.1:{server.getsockname()[1]}"


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def given(command):
    """Return the settings of a command line, as spark-submit takes them: of several the last."""
    pairs = list(itertools.pairwise(command))
    found = dict(value.split("=", 1) for name, value in pairs if name in {"--conf", "-c"})
    files = [value for name, value in pairs if name == "--properties-file"]
    return properties(Path(files[-1])) | found if files else found


def test_a_job_of_the_checkout_is_found_from_any_directory():
    assert complete(["jobs/index.py", "--input", "a b"]) == [*LOCAL_JOB, INDEX, "--input", "a b"]


def test_an_environment_of_before_there_was_a_driver_of_ours_runs_the_job_as_spark_does(monkeypatch, elsewhere):
    monkeypatch.setattr("medspark.submit.DRIVER", elsewhere / "medspark-driver")
    assert complete(["jobs/index.py"]) == [*LOCAL, INDEX]


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
    assert complete([*options, "jobs/index.py", "--master", "x"]) == [*LOCAL_JOB, *options, INDEX, "--master", "x"]


def test_the_variable_master_counts_when_no_option_names_one(monkeypatch, master):
    monkeypatch.setenv("MASTER", master)
    assert given(complete([*THEIRS, "jobs/index.py"])).keys() > properties(SETTINGS / "standalone.conf").keys()
    assert complete(["--master", "local", "jobs/index.py"]) == [*LOCAL_JOB, "--master", "local", INDEX]


def test_a_client_of_spark_connect_gets_the_users_options_alone():
    assert complete(["--remote", "sc://host", "jobs/index.py"]) == ["--remote", "sc://host", INDEX]


def test_a_line_of_the_users_file_wins_over_ours_and_the_others_of_ours_stay(elsewhere):
    (elsewhere / "mine.conf").write_text("# mine\nspark.driver.memory = 9g\nspark.mine:a=b c\n  spark.other\td \n")
    command = complete(["--properties-file", "mine.conf", "jobs/index.py"])
    assert command[-3:] == ["--properties-file", "mine.conf", INDEX]
    ours = properties(SETTINGS / "local.conf")
    theirs = {"spark.driver.memory": "9g", "spark.mine": "a=b c", "spark.other": "d"}
    pythons = {"spark.pyspark.python": sys.executable, "spark.pyspark.driver.python": EARLY}
    assert given(command) == ours | theirs | pythons
    assert "spark.driver.memory" not in given(command[:-3])


def test_a_python_that_the_user_names_in_a_file_is_the_workers_and_the_drivers(elsewhere):
    (elsewhere / "mine.conf").write_text("spark.pyspark.python /opt/python")
    said = given(complete(["--properties-file", "mine.conf", "jobs/index.py"]))
    assert said["spark.pyspark.python"] == "/opt/python"
    assert "spark.pyspark.driver.python" not in said


def test_of_several_files_a_later_one_wins_and_only_the_last_goes_to_spark_as_a_file(elsewhere):
    (elsewhere / "1.conf").write_text("spark.a 1\nspark.b 1\nspark.sql.shuffle.partitions 1")
    (elsewhere / "2.conf").write_text("spark.b 2\nspark.authenticate.secret hidden")
    (elsewhere / "2.conf").chmod(0o600)
    command = complete(["--properties-file", "1.conf", "--properties-file=2.conf", "jobs/index.py"])
    assert command[-4:] == ["--properties-file", "1.conf", "--properties-file=2.conf", INDEX]
    said = given(command[:-4])
    assert (said["spark.a"], said["spark.sql.shuffle.partitions"]) == ("1", "1")
    assert "spark.b" not in said
    assert not [word for word in command if "hidden" in word]


def test_a_secret_never_gets_onto_a_command_line_nor_stays_open_to_all(elsewhere):
    (elsewhere / "secret.conf").write_text("spark.authenticate.secret hidden")
    (elsewhere / "other.conf").write_text("spark.a 1")
    both = ["--properties-file", "secret.conf", "--properties-file", "other.conf", "jobs/index.py"]
    with pytest.raises(ConfigError, match=r"^spark.authenticate.secret of secret.conf .* as the last one$"):
        complete(both)
    (elsewhere / "secret.conf").chmod(0o644)
    with pytest.raises(ConfigError, match=r"^secret.conf holds a secret and everybody can read it: chmod 600"):
        complete(both[:2] + both[-1:])


@pytest.mark.spark
def test_a_standalone_cluster_gets_its_settings_and_the_environment(master):
    command = complete(["--master", master, "--name", "x", "jobs/index.py", "--input", "y"])
    shipped = ["--archives", ship.archives()]
    assert command[-9:] == ["--master", master, "--name", "x", *shipped, INDEX, "--input", "y"]
    pythons = {"spark.pyspark.python": "./environment/bin/python", "spark.pyspark.driver.python": sys.executable}
    assert given(command) == properties(SETTINGS / "standalone.conf") | pythons
    for archive, name in zip(ship.archives().split(","), ("environment", "package"), strict=True):
        path, _, directory = archive.partition("#")
        assert directory == name
        assert Path(path).is_file()


@pytest.mark.spark
@pytest.mark.parametrize("option", [["--archives", "x.zip#x"], ["--conf", "spark.archives=x.zip#x"]])
def test_what_the_user_ships_goes_with_it(master, option):
    command = complete(["--master", master, *option, "jobs/index.py"])
    assert command[-3:] == ["--archives", f"x.zip#x,{ship.archives()}", INDEX]


@pytest.mark.parametrize("theirs", [THEIRS, ["--archives", "a.tar.gz#environment"]])
def test_a_user_who_brings_a_python_is_shipped_none(master, theirs):
    options = ["--master", master, *theirs]
    ours = ["--conf", DRIVER, "--properties-file", str(SETTINGS / "standalone.conf")]
    assert complete([*options, "jobs/index.py"]) == [*ours, *options, INDEX]


def test_the_defaults_of_an_administrator_win_on_a_cluster_and_are_not_read_in_local_mode(
    master, monkeypatch, elsewhere
):
    monkeypatch.setenv("SPARK_CONF_DIR", str(elsewhere))
    (elsewhere / "spark-defaults.conf").write_text("spark.master yarn\nspark.executor.memory 7g\nspark.secret hidden")
    command = complete(["--master", master, *THEIRS, "jobs/index.py"])
    assert "--properties-file" not in command  # spark-submit reads the defaults by itself
    assert not [word for word in command if "hidden" in word]
    ours = properties(SETTINGS / "standalone.conf")
    assert given(command).keys() >= ours.keys() - {"spark.executor.memory"}
    assert "spark.executor.memory" not in given(command)
    assert complete(["jobs/index.py"]) == [*LOCAL_JOB, INDEX]


def test_the_driver_answers_at_the_address_that_the_master_is_reached_from(monkeypatch):
    own = own_address()
    if own is None:
        pytest.skip("this machine has no address but its loopback")
    monkeypatch.setenv("SPARK_MASTER_WEBUI_PORT", str(unused_port()))
    with socket.create_server((own, 0)) as server:
        options = ["--master", f"spark://{own}:{server.getsockname()[1]}", *THEIRS, "jobs/index.py"]
        assert given(complete(options))["spark.driver.host"] == own
        named = ["--conf", "spark.driver.host=gate.example", *options]
        assert given(complete(named))["spark.driver.host"] == "gate.example"
        monkeypatch.setenv("SPARK_LOCAL_IP", own)
        assert "spark.driver.host" not in given(complete(options))


def own_address():
    """Return the address that this machine has in its network, None if it is in none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return probe.getsockname()[0]


def test_a_master_that_is_not_there_is_named_at_once():
    port = unused_port()
    with pytest.raises(
        ConfigError, match=rf"^no Spark master answers at 127.0.0.1:{port} \(.*refused\): is it running"
    ):
        complete(["--master", f"spark://127.0.0.1:{port}", "jobs/index.py"])


def test_of_several_masters_one_has_to_answer(master):
    both = f"spark://127.0.0.1:{unused_port()},{master.removeprefix('spark://')}"
    assert complete(["--master", both, *THEIRS, "jobs/index.py"])[-1] == INDEX


@contextlib.contextmanager
def page_of(text):
    """Serve a page as a master does; give its port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("version", "other", "is_fit"),
    [("3.5.1", "", False), (pyspark.__version__, "", True), ("3.5.1", "spark://elsewhere:1", True), ("none", "", True)],
)
def test_a_master_of_another_spark_is_named_with_both_versions(master, monkeypatch, version, other, is_fit):
    options = ["--master", master, *THEIRS, "jobs/index.py"]
    with page_of(PAGE.format(master=other or master, version=version)) as port:
        monkeypatch.setenv("SPARK_MASTER_WEBUI_PORT", str(port))
        if is_fit:
            assert complete(options)[-1] == INDEX
        else:
            with pytest.raises(
                ConfigError, match=rf"is of Spark 3\.5\.1, and here is {re.escape(pyspark.__version__)},"
            ):
                complete(options)


def test_a_standalone_master_starts_no_driver_of_ours(master):
    with pytest.raises(ConfigError, match="leave out --deploy-mode cluster"):
        complete(["--master", master, "--deploy-mode", "cluster", "jobs/index.py"])


@pytest.mark.spark
def test_yarn_gets_the_environment_for_its_driver_too_in_cluster_mode(monkeypatch, elsewhere):
    with pytest.raises(ConfigError, match="set HADOOP_CONF_DIR"):
        complete(["--master", "yarn", "jobs/index.py"])
    monkeypatch.setenv("HADOOP_CONF_DIR", str(elsewhere))
    ours = properties(SETTINGS / "yarn.conf")
    shipped = {"spark.pyspark.python": ship.PYTHON}
    client = given(complete(["--master", "yarn", "jobs/index.py"]))
    assert client == ours | shipped | {"spark.pyspark.driver.python": sys.executable}
    cluster = complete(["--master", "yarn", "--deploy-mode", "cluster", "jobs/index.py"])
    driver = {f"spark.yarn.appMasterEnv.{name}": ship.PYTHON for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON")}
    assert given(cluster) == ours | shipped | driver
    assert cluster[-3:] == ["--archives", ship.archives(), INDEX]


def test_kubernetes_wants_an_image_and_is_shipped_nothing():
    options = ["--master", "k8s://https://host:6443"]
    image = ["--conf", "spark.kubernetes.container.image=registry/medspark:1"]
    with pytest.raises(ConfigError, match=r"name it by --conf spark\.kubernetes\.container\.image="):
        complete([*options, "jobs/index.py"])
    ours = ["--properties-file", str(SETTINGS / "kubernetes.conf")]
    assert complete([*options, *image, "jobs/index.py"]) == ["--conf", DRIVER, *ours, *options, *image, INDEX]

    options += [*image, "--deploy-mode", "cluster"]
    with pytest.raises(ConfigError, match=r"the job is that of the image: local:///opt/medspark/jobs/index\.py"):
        complete([*options, "jobs/index.py"])
    assert complete([*options, "local:///opt/index.py"]) == [*ours, *options, "local:///opt/index.py"]


@pytest.mark.parametrize("master", ["sprak://host", "mesos://host:5050", ""])
def test_a_master_that_spark_does_not_have_is_named(master):
    if master:
        with pytest.raises(ConfigError, match=f"no master '{master}': it is local"):
            complete(["--master", master, "jobs/index.py"])
    else:
        assert complete([f"--master={master}", "jobs/index.py"]) == [*LOCAL_JOB, "--master=", INDEX]


def known_settings():
    """Return every name of a setting in the jars of Spark: one that Spark does not know, it passes over in silence."""
    found = set()
    for jar in (Path(pyspark.__file__).parent / "jars").glob("spark-*.jar"):
        if re.match(r"spark-(core|common|network|sql-api|catalyst|yarn|kubernetes)", jar.name):
            with zipfile.ZipFile(jar) as classes:
                for name in classes.namelist():
                    if re.search(r"[cC]onf|SparkContext|Client|Transport", name):
                        found |= set(re.findall(rb"spark(?:\.\w+)+", classes.read(name)))
    return {name.decode() for name in found}


def test_spark_knows_every_setting_of_ours():
    ours = {key for path in SETTINGS.glob("*.conf") for key in properties(path)}
    assert ours - known_settings() == set()


@pytest.mark.parametrize("path", sorted(SETTINGS.glob("*.conf")), ids=lambda path: path.name)
def test_every_setting_has_its_reason_on_the_line_before(path):
    lines = path.read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert len(settings) == len(properties(path)) > 5
    for number in settings:
        assert re.fullmatch(r"spark(\.\w+)+ +\S.*", lines[number])
        assert lines[number - 1].startswith("# ")


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
def test_the_python_of_a_local_job_starts_the_session_before_the_job_asks_for_it(tmp_path):
    job = tmp_path / "early.py"
    job.write_text("""\
import sys
from medspark.spark import session
assert session._beginning
spark = session.session("late")
print(__name__, *sys.argv[1:], spark.sparkContext.appName, *(path for path in sys.path if "pyspark.zip" in path))
session.stop(spark)
sys.exit(3)
""")
    ended = subprocess.run([EARLY, job, "a", "--b=c"], capture_output=True, text=True, check=False)
    assert ended.stdout == "__main__ a --b=c medspark-early\n"
    assert ended.returncode == 3


@pytest.fixture
def alone():
    """What makes a command run on a host without any network; nothing where no such host can be made."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(hosts.alone()).command if hosts.can_be_made() else ()


@pytest.mark.spark
def test_a_job_runs_quietly_without_a_network_in_a_path_with_spaces_and_its_exit_code_comes_back(tmp_path, alone):
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    script = shutil.copy(CHECKOUT / "spark-submit.sh", checkout)
    job = tmp_path / "a job.py"
    job.write_text("""\
import socket
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
workers = spark.sparkContext.parallelize(range(2), 2).map(lambda _: sys.executable).distinct().collect()
spark.range(3).write.parquet(sys.argv[1])
print(workers, spark.sparkContext.master, spark.conf.get("spark.sql.session.timeZone"), sys.argv[2])
print(*(name for _, name in socket.if_nameindex()))
sys.exit(3)
""")
    ended = subprocess.run(
        [*alone, script, "--master", "local[2]", job, "table", "--input=x y"],
        capture_output=True,
        text=True,
        check=False,
    )
    first, interfaces = ended.stdout.splitlines()
    assert first == f"{[f'{checkout}/.venv/bin/python']} local[2] UTC --input=x y"
    assert interfaces == "lo" or not alone
    # The JVM itself says this one, before any setting of ours is read.
    assert set(ended.stderr.splitlines()) <= {"WARNING: Using incubator modules: jdk.incubator.vector"}
    assert ended.returncode == 3
    assert Path("table", "_SUCCESS").exists()
