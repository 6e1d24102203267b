"""The Delta tables: what Spark staged becomes visible in one commit, or not at all.

Spark writes Parquet into TABLE/RUN_ID/, where no reader looks; one commit of delta-rs publishes those files, and takes
away the ones they replace. A run that dies before its commit leaves files that nobody sees.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from medspark.errors import ConfigError, ConflictError

_ATTEMPTS = 10
TABLES = ("images", "features", "quarantine", "predictions", "runs")


def new_run_id(job: str, now: datetime) -> str:
    """Return an id that sorts by time and is not given twice."""
    return f"{job}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Warehouse:
    """Where tables, models and reports live: an absolute path, or a URI."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> "Warehouse":
        """Return the warehouse at a path or URI, made absolute."""
        if not uri:
            raise ConfigError("warehouse is missing: give --warehouse or warehouse = ... in the configuration")
        parts = urlsplit(uri)
        if parts.scheme not in ("", "file"):
            raise ConfigError(f"warehouse {uri}: file systems other than the local one are not supported yet")
        path = os.path.abspath(unquote(parts.path) if parts.scheme else uri)
        if re.search(r"%[0-9A-Fa-f]{2}|\\", path):  # it would read another directory, whose name is the decoded one
            raise ConfigError(f"warehouse {uri}: delta-rs misreads a path with a backslash or an escape such as %20")
        return cls(path)

    def path(self, *parts: str) -> str:
        """Return a path inside the warehouse."""
        return "/".join((self.uri, *parts))

    def table(self, name: str) -> DeltaTable | None:
        """Return the newest version of a table, or None before its first commit."""
        try:
            return DeltaTable(self.path(name))
        except TableNotFoundError:
            return None

    def files(self, name: str) -> list[str]:
        """Return the paths of the Parquet files that make up a table now."""
        table = self.table(name)
        return [] if table is None else [self.path(name, part) for part in _parts(table)]

    def schema(self, name: str) -> pa.Schema:
        """Return the columns of a table; none before its first commit."""
        table = self.table(name)
        return pa.schema([] if table is None else table.schema().to_arrow())

    def publish(
        self, name: str, schema: pa.Schema, run_id: str, *, replaced: Collection[str] | Literal["all"] = ()
    ) -> None:
        """Make the Parquet files under NAME/RUN_ID part of a table, and the replaced ones no longer, in one commit.

        ``replaced`` are paths as ``files`` gives them. New columns of ``schema`` are added to the table. Publishing the
        same run again changes nothing. Raises ConflictError if another run has replaced some of the same files.
        """
        staged = self._staged(name, run_id)
        for attempt in range(_ATTEMPTS):
            try:
                self._commit(name, schema, run_id, staged, replaced)
            except DeltaError:  # another run began the table, or changed it, after we had looked at it
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _commit(
        self,
        name: str,
        schema: pa.Schema,
        run_id: str,
        staged: list[AddAction],
        replaced: Collection[str] | Literal["all"],
    ) -> None:
        commit = CommitProperties(app_transactions=[Transaction(run_id, 1)], custom_metadata={"run_id": run_id})
        table = self.table(name)
        if table is None:
            create_table_with_add_actions(self.path(name), Schema.from_arrow(schema), staged, commit_properties=commit)
            return
        if table.transaction_version(run_id) is not None:
            return
        parts = {self.path(name, part): part for part in _parts(table)}
        leaving = parts if replaced == "all" else replaced
        if not parts.keys() >= set(leaving):  # what this run kept of the rows in them was kept by another one, too
            raise ConflictError(f"another run has changed {self.path(name)} in the meantime; run again")
        _add_columns(table, schema)
        now = _milliseconds(datetime.now(UTC))
        gone = [RemoveAction(parts[path], data_change=True, deletion_timestamp=now) for path in leaving]
        if not staged and not gone:
            return
        table.create_write_transaction([*staged, *gone], mode="append", schema=table.schema(), commit_properties=commit)

    def keep_recipe(self, recipe_id: str, recipe: Mapping[str, Any]) -> None:
        """Write a recipe beside the tables that it made."""
        target = Path(self.path("recipes", f"{recipe_id}.json"))
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_suffix(f".{secrets.token_hex(3)}")
            draft.write_text(json.dumps(recipe, indent=2), "utf-8")
            draft.replace(target)

    def discard(self, name: str, run_id: str) -> None:
        """Remove what a run staged and does not publish."""
        shutil.rmtree(self.path(name, run_id))

    def append_row(self, name: str, row: Mapping[str, Any], schema: pa.Schema) -> None:
        """Add one row to a table."""
        write_deltalake(self.path(name), pa.Table.from_pylist([dict(row)], schema=schema), mode="append")

    def _staged(self, name: str, run_id: str) -> list[AddAction]:
        actions = []
        for file in sorted(Path(self.path(name, run_id)).glob("*.parquet")):
            n_rows = pq.read_metadata(file).num_rows
            if not n_rows:  # Spark writes a file for an empty table, so that its schema can be read
                continue
            facts = file.stat()
            stats = json.dumps({"numRecords": n_rows})
            actions.append(
                AddAction(
                    f"{run_id}/{file.name}",
                    facts.st_size,
                    {},
                    int(facts.st_mtime * 1000),
                    data_change=True,
                    stats=stats,
                )
            )
        return actions


def _parts(table: DeltaTable) -> list[str]:
    return [str(path) for path in pa.table(table.get_add_actions()).column("path").to_pylist()]


def _add_columns(table: DeltaTable, schema: pa.Schema) -> None:
    known = {field.name for field in table.schema().fields}
    missing = [field for field in Schema.from_arrow(schema).fields if field.name not in known]
    if missing:
        table.alter.add_columns(missing)
        table.update_incremental()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
