"""The nightly job by Airflow 3: put this file among the DAGs, where apache-airflow-providers-apache-spark is installed.

The master comes from the connection ``spark_default``, what to read and where to write from Airflow's variables:
``medspark_input``, ``medspark_warehouse`` and ``medspark_key_file``, the path of the key, and ``medspark_config`` if
the configuration is not /etc/medspark/reprocess.toml. The workers' variable MEDSPARK_HOME says where the checkout is.
"""  # noqa: INP001 - a file for Airflow, not a module of ours

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException

FINAL = {
    "1": "done, but not acceptable: look at the report and the quarantine",
    "2": "nothing done: the configuration or the environment is wrong",
}


class MedsparkOperator(SparkSubmitOperator):
    """spark-submit.sh, tried again only where that may help: exit code 3, or an end that was not its own."""

    def execute(self, context: Any) -> None:
        """Run the job; codes 1 and 2 fail the task for good."""
        try:
            super().execute(context)
        except AirflowException as error:
            code = re.search(r"Error code is: (\d+)", str(error))
            if code and code[1] in FINAL:
                raise AirflowFailException(f"medspark: {FINAL[code[1]]}") from error
            raise


with DAG(
    "medspark_nightly",
    description="List, measure, score and report what is new in the archive of images",
    schedule="30 1 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # one run does whatever is new, however many were missed
    max_active_runs=1,  # a second one would end with 3: the warehouse is held
    tags=["medspark"],
):
    MedsparkOperator(
        task_id="reprocess",
        spark_binary=str(Path(os.environ.get("MEDSPARK_HOME", "/opt/medspark"), "spark-submit.sh")),
        deploy_mode="client",  # in cluster mode spark-submit has an exit code of its own
        name="medspark-reprocess",
        application="jobs/reprocess.py",
        application_args=[
            "--config={{ var.value.get('medspark_config', '/etc/medspark/reprocess.toml') }}",
            "--input={{ var.value.medspark_input }}",
            "--warehouse={{ var.value.medspark_warehouse }}",
            "--set=privacy.key_file={{ var.value.medspark_key_file }}",
        ],
        retries=3,
        retry_delay=timedelta(minutes=20),
        execution_timeout=timedelta(hours=22),
    )
