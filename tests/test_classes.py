import os
import subprocess
import sys

import pytest

from medspark.classes import write
from medspark.java import class_archive, java_home


def test_a_session_takes_its_classes_from_the_archive(tmp_path):
    archive = write()
    if archive is None:
        pytest.skip("this Java makes no archive of classes")
    assert archive == class_archive(java_home())
    loaded = tmp_path / "loaded"
    options = f"-XX:SharedArchiveFile={archive} -Xlog:class+load:file={loaded}"
    environment = {**os.environ, "SPARK_SUBMIT_OPTS": options}
    subprocess.run([sys.executable, "-m", "medspark.submit", "--version"], env=environment, check=True)
    sources = dict(
        line.split("] ")[-1].split(" source: ") for line in loaded.read_text().splitlines() if "source:" in line
    )
    assert "shared objects file" in sources["org.apache.spark.deploy.SparkSubmit"]
