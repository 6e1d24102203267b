"""From a command to the first file: a plain script of PySpark, one with our session, and the job on a new archive.

    python benchmarks/startup.py [--rounds 5]

The plain script makes a session and runs one empty pandas UDF, with the settings that Spark comes with; the
script measures one image. The job, ./spark-submit.sh jobs/extract.py, lists a new archive and plans before that. A step
of the recipe writes down when the first image gets there. They take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medspark.java import java_home
from medspark.phantom import write_png_set

CHECKOUT = Path(__file__).resolve().parents[1]
PLAIN = """
import time
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf

spark = SparkSession.builder.getOrCreate()

@pandas_udf("long")
def nothing(x: pd.Series) -> pd.Series:
    return x

spark.range(1).select(nothing("id")).collect()
print(time.time())
"""
SCRIPT = """
import sys
import medspark
from medspark.spark import extract_features
from medspark.spark.session import session

steps = {"steps": [{"use": "startup_probe:seen"}], "features": [{"use": "lbp"}]}
images = session("notebook").createDataFrame([(sys.argv[1],)], "path string")
extract_features(images, medspark.Recipe.from_dict(steps)).collect()
"""
PROBE = """
import time
from pathlib import Path

def seen(image):
    if image.shape == (96, 96):  # and not the one that the driver rehearses with
        with Path({place!r}).open("a") as file:
            file.write(f"{{time.time()}}\\n")
    return image
"""


def main() -> None:
    """Run both in turns and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        write_png_set(place / "images", n=4, size=96)
        (place / "plain.py").write_text(PLAIN)
        (place / "script.py").write_text(SCRIPT)
        (place / "startup_probe.py").write_text(PROBE.format(place=str(place / "first")))
        # The first round reads the disk.
        times = [(plain(place), script(place), job(place, number)) for number in range(rounds + 1)][1:]
    names = ("plain PySpark", "medspark, a script", "medspark extract")
    for name, column in zip(names, zip(*times, strict=True), strict=True):
        ratio = statistics.median(own / turn[0] for own, turn in zip(column, times, strict=True))
        seconds = ", ".join(f"{each:.2f}" for each in column)
        print(f"{name:18} {statistics.median(column):6.2f} s {ratio:5.2f}x   {seconds}")


def plain(place: Path) -> float:
    """Return the seconds until the UDF has answered."""
    began = time.time()
    environment = {**os.environ, "JAVA_HOME": str(java_home()), "PYSPARK_PYTHON": sys.executable}
    done = run([sys.executable, str(place / "plain.py")], environment)
    return float(done.split()[-1]) - began


def script(place: Path) -> float:
    """Return the seconds until a script with our session has its first image in the recipe."""
    return first(place, [sys.executable, str(place / "script.py"), str(next((place / "images").iterdir()))])


def job(place: Path, number: int) -> float:
    """Return the seconds until extract has its first image in the recipe."""
    places = ["--input", str(place / "images"), "--warehouse", str(place / f"warehouse-{number}")]
    recipe = ["--set", 'steps=[{use="startup_probe:seen"}]', "--set", 'features=[{use="lbp"}]']
    return first(place, [str(CHECKOUT / "spark-submit.sh"), "jobs/extract.py", *places, *recipe])


def first(place: Path, command: list[str]) -> float:
    """Return the seconds from a command until the first image is in the recipe."""
    (place / "first").unlink(missing_ok=True)
    began = time.time()
    run(command, {**os.environ, "PYTHONPATH": str(place), "MEDSPARK_KEY": "a key for nobody's data"})
    return float((place / "first").read_text().split()[0]) - began


def run(command: list[str], environment: dict[str, str]) -> str:
    """Return what a command prints; what it says besides is told only if it fails."""
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
