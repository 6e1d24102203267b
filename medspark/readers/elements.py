"""Values out of a pydicom data set, whatever a damaged file makes of them."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pydicom
from pydicom.dataset import Dataset

from medspark.readers.formats import HEAD_BYTES, bare_dicom_offset


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and pydicom's log: both quote the values found odd, and they may be a patient's."""
    log = pydicom.config.logger
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


def stray_bytes(content: bytes) -> int:
    """Return how many bytes stand before the object, as a careless tool leaves them."""
    head = content[:HEAD_BYTES]
    return 0 if head[128:132] == b"DICM" else bare_dicom_offset(head) or 0


def without_stray_bytes(file: IO[bytes]) -> IO[bytes]:
    """Return the file from where the object begins: pydicom goes back to where its file begins."""
    n_stray = stray_bytes(file.read(HEAD_BYTES))
    file.seek(n_stray)
    return io.BytesIO(file.read()) if n_stray else file


def spacing(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Return the distance in mm between rows and between columns."""
    source = group(dataset, frame, "PixelMeasuresSequence")
    between_rows, between_columns = number(source, "PixelSpacing", 0), number(source, "PixelSpacing", 1)
    return None if between_rows is None or between_columns is None else (between_rows, between_columns)


def group(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """Return where a frame's facts stand: its own functional group, the shared one, or the object (PS3.3 C.7.6.16)."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for item in (*per_frame[frame : frame + 1], *shared[:1]):
        if item.get(sequence):
            found: Dataset = item[sequence][0]
            return found
    return dataset


def number(dataset: Dataset, keyword: str, index: int = 0) -> float | None:
    """Return a finite number, or one of several; None where there is none."""
    try:
        value = dataset.get(keyword)
        found = float([value][index] if isinstance(value, (int, float, str)) else value[index])
    except Exception:  # noqa: BLE001 - pydicom parses a value when it is asked for, and raises what it likes
        return None
    return found if math.isfinite(found) else None


def numbers(dataset: Dataset, keyword: str, count: int) -> list[float] | None:
    """Return so many numbers, or None if one of them is missing."""
    found = [number(dataset, keyword, index) for index in range(count)]
    return None if None in found else [value for value in found if value is not None]


def whole(dataset: Dataset, keyword: str) -> int | None:
    """Return a number without its fraction."""
    found = number(dataset, keyword)
    return int(found) if found is not None else None


def text(dataset: Dataset, keyword: str) -> str | None:
    """Return a value as text without its padding; None for an empty one."""
    try:
        return str(dataset.get(keyword) or "").strip(" \0") or None
    except Exception:  # noqa: BLE001 - as above
        return None


def words(dataset: Dataset, keyword: str) -> list[str]:
    """Return the values of an attribute that may have several."""
    try:
        value = dataset.get(keyword) or []
        return [value] if isinstance(value, str) else list(value)
    except Exception:  # noqa: BLE001 - as above
        return []
