"""What a job says: text for people, or a JSON object a line for those who collect logs."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO


@dataclass
class _Form:
    name: str = "text"
    job: str = ""


_form = _Form()  # of the process: text, until launch has read a configuration that says otherwise


def use(form: str, job: str = "") -> None:
    """Let what is said from now on be ``text`` or ``json``, and be of this job where it names no other."""
    _form.name, _form.job = form, job


def is_json() -> bool:
    """Tell whether lines are JSON."""
    return _form.name == "json"


def say(text: str, event: str, below: Iterable[str] = (), **facts: Any) -> None:
    """Print a line on stdout: the text with what stands below it, or as JSON the text with its facts."""
    _write(sys.stdout, line(text, event, below, **facts))


def complain(text: str, event: str, **facts: Any) -> None:
    """Print a line on stderr."""
    _write(sys.stderr, line(text, event, **facts))


def line(text: str, event: str, below: Iterable[str] = (), **facts: Any) -> str:
    """Return what ``say`` prints; ``job`` and ``run_id`` are facts, and a fact that is None is left out of JSON."""
    if not is_json():
        return "\n".join([text, *below])
    now = datetime.now(UTC)
    told = {"time": now, "job": _form.job, "run_id": None, "event": event, "text": text.strip(), **facts}
    return json.dumps({name: _plain(fact) for name, fact in told.items() if fact is not None}, allow_nan=False)


def _write(out: TextIO, text: str) -> None:
    out.write(f"{text}\n")
    if is_json():
        out.flush()  # whoever collects it wants it now


def _plain(fact: Any) -> Any:
    """Return a fact as JSON has it, which knows no time and neither NaN nor infinity."""
    if isinstance(fact, Mapping):
        return {str(name): _plain(inner) for name, inner in fact.items()}
    if isinstance(fact, list | tuple):
        return [_plain(inner) for inner in fact]
    if isinstance(fact, datetime):
        return fact.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return None if isinstance(fact, float) and not math.isfinite(fact) else fact
