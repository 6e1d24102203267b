"""What each reason code means, and what to do about it, in words for the page."""

from typing import NamedTuple


class Reason(NamedTuple):
    """Two sentences about a reason code; `code` in backticks."""

    meaning: str
    advice: str


UNKNOWN = Reason("This version of medspark does not know the code.", "Look at the `error` column of `quarantine/`.")

REASONS = {
    # quarantined
    "empty_file": Reason(
        "The file has no bytes.",
        "Copy it again from its source; an interrupted transfer leaves such files.",
    ),
    "not_an_image": Reason(
        "The content is that of no image format, whatever the name says.",
        "Nothing, if it is a text, a table or a program; keep such files out of the input to silence it.",
    ),
    "truncated": Reason(
        "The content ends before the image does.",
        "Copy it again from its source and compare the sizes; the next run takes it up.",
    ),
    "corrupt": Reason(
        "The content contradicts itself and cannot be decoded.",
        "Open it in another viewer. If that fails too, ask the source for a new export; if not, report it to us.",
    ),
    "unsupported_format": Reason(
        "A known format, or a variant of one, that no reader here takes.",
        "Convert it to DICOM, PNG or TIFF, or add a reader.",
    ),
    "unsupported_transfer_syntax": Reason(
        "The DICOM pixels are compressed in a way that no installed decoder takes.",
        "Run `medspark doctor`: it lists the decoders found and the package that brings the one missing.",
    ),
    "no_pixel_data": Reason(
        "A sound DICOM object without an image: a report, a plan, a presentation state.",
        "Nothing; there is no image to measure.",
    ),
    "too_large": Reason(
        "More bytes or pixels than the limits allow.",
        "Raise `max_pixels` or `memory_mb` under `[limits]` if the image is genuine, "
        "and name `too_large` in `retry` under `[run]`.",
    ),
    "timeout": Reason(
        "Reading and measuring took longer than the limit for one file.",
        "Raise `seconds_per_file` under `[limits]`, and name `timeout` in `retry` under `[run]`.",
    ),
    "crashed": Reason(
        "The decoder took its process down; the other files were not touched.",
        "Keep the file away from other software too, and report it to the makers of the decoder. "
        "After an update name `crashed` in `retry` under `[run]`.",
    ),
    "out_of_memory": Reason(
        "Decoding wanted more memory than the limit for one process.",
        "Raise `memory_mb` under `[limits]`, and name `out_of_memory` in `retry` under `[run]`.",
    ),
    "unreadable": Reason(
        "The file system refused the bytes: no permission, or an input/output error.",
        "Check the rights of the account that runs Spark and the health of the storage.",
    ),
    "vanished": Reason(
        "The file was listed and was gone when it was read.",
        "Nothing, if the archive moves files; the next run lists it where it is now.",
    ),
    "step_failed": Reason(
        "The image was read, but a step or feature of the recipe could not take it.",
        "`failed_stage` and `error` in `quarantine/` say which and why: change its parameters or add a step before it.",
    ),
    # skipped
    "hidden": Reason(
        "The name, or that of a directory above, starts with a dot.",
        "Rename it if it is a patient's image; such names are bookkeeping of other programs.",
    ),
    "directory_record": Reason(
        "A DICOMDIR: a table of contents of the files beside it.",
        "Nothing; the files it lists are read by themselves.",
    ),
    "not_selected": Reason(
        "The configuration leaves it out.",
        "Widen the selection in the configuration if it should be measured.",
    ),
    "duplicate": Reason(
        "Byte for byte the same as another file of the archive, which was measured.",
        "Nothing; its numbers are those of the other file.",
    ),
}
