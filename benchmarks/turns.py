"""How a contestant is asked for one pass after the other: a line of JSON in, a line of JSON out. Standard library only.

In:   {"files": "a file with a path on each line", "out": "the Parquet file or directory to write"}
Out:  {"rows": 4000} or {"error": "what went wrong"}

The end of the input ends the contestant. It is imported before all else: what a library prints must not be an answer.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# Both ends belong to the protocol: what reads or prints from here on, a child too, meets the null device and stderr.
_requests = os.fdopen(os.dup(0), encoding="utf-8")
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
_nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(_nothing, 0)
os.close(_nothing)
os.dup2(2, 1)


def take(run: Callable[[list[str], str], int]) -> None:
    """Answer each request with the number of rows that ``run(paths, out)`` wrote, until there are no more.

    ``run`` makes a whole pass over the paths. What it raises is the answer, and its traceback goes to stderr.
    """
    for line in _requests:
        asked = json.loads(line)
        try:
            paths = Path(asked["files"]).read_text("utf-8").splitlines()
            answer: dict[str, int | str] = {"rows": int(run(paths, asked["out"]))}
        except Exception as error:  # noqa: BLE001 - a contestant that fails is a row of the table
            traceback.print_exc()
            first = (str(error).strip() or "no message").splitlines()[0]
            answer = {"error": f"{type(error).__name__}: {first[:300]}"}
        sys.stdout.flush()
        _answers.write(f"{json.dumps(answer)}\n")
        _answers.flush()
