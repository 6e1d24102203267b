"""Frame: the pixels of one image and what its file says about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Image = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Window:
    """How a DICOM object asks to be displayed: a VOI window (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str = "LINEAR"  # or LINEAR_EXACT, SIGMOID


@dataclass(frozen=True, eq=False)
class VoiLut:
    """How a DICOM object asks to be displayed: a table (PS3.3 C.11.2.1.1)."""

    first: int  # the value that the first entry is for; below it the first, beyond the last the last entry counts
    table: Image  # one-dimensional, unsigned
    bits: int  # of an entry


@dataclass(frozen=True)
class Frame:
    """One image of a file.

    ``pixels`` is rows x columns (or rows x columns x samples when read raw): the grayscale values after the modality
    transform (HU for CT), or the stored values when read raw.
    """

    pixels: Image
    number: int = 0
    modality: str | None = None
    window: Window | VoiLut | None = None
    is_inverted: bool = False  # MONOCHROME1: the lowest value is shown white
    spacing_mm: tuple[float, float] | None = None  # between rows, between columns
    identity: Mapping[str, str] = field(default_factory=dict)  # patient_id, study_uid, series_uid as in the file
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the features table says, by its columns
    flags: tuple[str, ...] = ()  # what a careful reader should know: see docs/tables.md


FACTS = ("window", "is_inverted", "spacing_mm", "modality")
"""What a step or feature is told about the file when it has a parameter of that name which the recipe leaves open."""


@dataclass(frozen=True)
class Limits:
    """What one file may cost."""

    seconds_per_file: float = 60.0
    memory_mb: int = 4096
    max_pixels: int = 400_000_000  # a frame has fewer, by its header

    @property
    def max_bytes(self) -> int:
        """``memory_mb`` in bytes."""
        return self.memory_mb << 20


DEFAULT_LIMITS = Limits()
