"""From a command to the first file done: ./spark-submit.sh jobs/extract.py against a plain script of PySpark.

    python benchmarks/startup.py [--rounds 5]

The plain script makes a session and runs one empty pandas UDF, with the settings that Spark comes with. Ours lists a
new archive, plans, and measures; a step of the recipe writes down when the first image gets there. They take turns.
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
        (place / "startup_probe.py").write_text(PROBE.format(place=str(place / "first")))
        times = [(plain(place), ours(place, number)) for number in range(rounds + 1)][1:]  # the first reads the disk
    for name, column in zip(("plain PySpark", "medspark extract"), zip(*times, strict=True), strict=True):
        print(f"{name:18} {statistics.median(column):6.2f} s   {', '.join(f'{each:.2f}' for each in column)}")
    print(f"ratio, median of the rounds: {statistics.median(own / theirs for theirs, own in times):.2f}")


def plain(place: Path) -> float:
    """Return the seconds until the UDF has answered."""
    began = time.time()
    environment = {**os.environ, "JAVA_HOME": str(java_home()), "PYSPARK_PYTHON": sys.executable}
    done = run([sys.executable, str(place / "plain.py")], environment)
    return float(done.split()[-1]) - began


def ours(place: Path, number: int) -> float:
    """Return the seconds until the first image is in the recipe."""
    (place / "first").unlink(missing_ok=True)
    began = time.time()
    places = ["--input", str(place / "images"), "--warehouse", str(place / f"warehouse-{number}")]
    recipe = ["--set", 'steps=[{use="startup_probe:seen"}]', "--set", 'features=[{use="lbp"}]']
    command = [str(CHECKOUT / "spark-submit.sh"), "jobs/extract.py", *places, *recipe]
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
