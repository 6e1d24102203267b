"""The runs table: what a run did, and that its sums are right."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyspark
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import medspark
from medspark import log
from medspark.spark.tables import RUNS, arrow, read
from medspark.warehouse import Warehouse, new_run_id


@dataclass(frozen=True)
class Counts:
    """Files by what became of them."""

    n_listed: int
    n_processed: int = 0
    n_unchanged: int = 0
    n_skipped: int = 0
    n_quarantined: int = 0

    def __post_init__(self) -> None:
        parts = self.n_processed + self.n_unchanged + self.n_skipped + self.n_quarantined
        if self.n_listed != parts:
            raise RuntimeError(f"the accounting does not add up: {self}")

    def __str__(self) -> str:
        return (
            f"{self.n_listed:,} listed = {self.n_processed:,} processed + {self.n_unchanged:,} unchanged"
            f" + {self.n_skipped:,} skipped + {self.n_quarantined:,} quarantined"
        )


def pace(spark: SparkSession, warehouse: Warehouse) -> float | None:
    """Return how many seconds a file took in the last extract that processed some, or None before the first."""
    runs = read(spark, warehouse, "runs", RUNS).where("job = 'extract' and n_processed > 0")
    seconds = F.col("finished_at").cast("double") - F.col("started_at").cast("double")
    last = runs.orderBy(F.desc("finished_at")).select(seconds / F.col("n_processed")).first()
    return None if last is None else float(last[0])


@dataclass(frozen=True)
class Run:
    """A run of a job: begun when made, visible in the table when finished."""

    job: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_id", new_run_id(self.job, self.started_at))

    run_id: str = field(init=False)

    def finish(
        self,
        warehouse: Warehouse,
        counts: Counts,
        *,
        status: str = "done",
        recipe_id: str | None = None,
        model_id: str | None = None,
    ) -> dict[str, Any]:
        """Write the row of this run, and return it with its seconds: the facts of the line that says so."""
        finished_at = datetime.now(UTC)
        row = {
            "run_id": self.run_id,
            "job": self.job,
            "status": status,
            "started_at": self.started_at,
            "finished_at": finished_at,
            **asdict(counts),
            "recipe_id": recipe_id,
            "model_id": model_id,
            "medspark_version": medspark.__version__,
            "spark_version": pyspark.__version__,
        }
        warehouse.append_rows("runs", [row], arrow(RUNS))
        return {**row, "seconds": round((finished_at - self.started_at).total_seconds(), 3)}

    def say(self, text: str, event: str, below: Iterable[str] = (), **facts: Any) -> None:
        """Say something of this run."""
        log.say(text, event, below, **{"job": self.job, "run_id": self.run_id, **facts})
