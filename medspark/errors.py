"""Every exception that medspark raises on purpose.

MedsparkError
├── ConfigError                      the configuration or a parameter is wrong: nothing was done (exit 2)
├── ConflictError                    another run came first: run again (exit 3)
├── ContractError                    a table lacks a column, a model does not fit the features (exit 2)
├── StepError                        a step or feature cannot take this image or parameter  (step_failed)
└── ImageError                       a file that did not become frames; ``reason`` is its code in the tables
    ├── EmptyFileError                   empty_file
    ├── NotAnImageError                  not_an_image
    ├── TruncatedError                   truncated
    ├── CorruptError                     corrupt
    ├── UnsupportedFormatError           unsupported_format
    ├── UnsupportedTransferSyntaxError   unsupported_transfer_syntax
    ├── NoPixelDataError                 no_pixel_data
    ├── TooLargeError                    too_large
    ├── OutOfMemoryError                 out_of_memory
    ├── UnreadableError                  unreadable
    └── VanishedError                    vanished

A message names the thing, the value and the way out, and never holds data of a patient: no attribute values of a
DICOM object but those that describe its pixels.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

_OPENCV_NO_MEMORY = -4  # cv2.Error.StsNoMem


class MedsparkError(Exception):
    """Anything that medspark raises on purpose."""


class ConfigError(MedsparkError):
    """The configuration is wrong; nothing was done."""


class ConflictError(MedsparkError):
    """Another run has changed what this one was about to replace."""


class ContractError(MedsparkError):
    """A table or a model does not have what the next step needs."""


class StepError(MedsparkError):
    """A step or a feature cannot take this image or this parameter."""


class ImageError(MedsparkError):
    """A file that did not become frames."""

    reason: ClassVar[str] = "corrupt"


class EmptyFileError(ImageError):
    """The file has no bytes."""

    reason = "empty_file"


class NotAnImageError(ImageError):
    """The content is that of no image format."""

    reason = "not_an_image"


class TruncatedError(ImageError):
    """The content ends before the image does."""

    reason = "truncated"


class CorruptError(ImageError):
    """The content contradicts itself."""

    reason = "corrupt"


class UnsupportedFormatError(ImageError):
    """A known format, or a variant of one, that no reader here takes."""

    reason = "unsupported_format"


class UnsupportedTransferSyntaxError(ImageError):
    """A DICOM transfer syntax that no installed decoder takes."""

    reason = "unsupported_transfer_syntax"


class NoPixelDataError(ImageError):
    """A sound DICOM object without an image, such as a report or a plan."""

    reason = "no_pixel_data"


class TooLargeError(ImageError):
    """More bytes or pixels than the limits allow."""

    reason = "too_large"


class OutOfMemoryError(ImageError):
    """Decoding or a step wanted more memory than there is."""

    reason = "out_of_memory"


class UnreadableError(ImageError):
    """The file system refuses the bytes."""

    reason = "unreadable"


class VanishedError(ImageError):
    """The file was listed and is gone."""

    reason = "vanished"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether there was no memory left, which OpenCV says with an error of its own."""
    return isinstance(error, MemoryError) or getattr(error, "code", None) == _OPENCV_NO_MEMORY


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}"
