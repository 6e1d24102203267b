"""The Python of a job in local mode: Spark's session starts while the imports of the job are read, a second each.

spark-submit calls this as it would call Python, with the path of a job and what the job gets
(``spark.pyspark.driver.python``, set by ``medspark.submit``).
"""

import runpy
import sys
from pathlib import Path

from medspark.unzipped import leave_out_zips


def main() -> None:
    """Run a job of ours; the exit code is the job's."""
    leave_out_zips()
    from medspark.spark.session import begin

    sys.argv.pop(0)
    begin(Path(sys.argv[0]).stem)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
