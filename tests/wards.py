"""A small archive with a bit of everything, for the places that it may lie in."""

import io
import zipfile

import numpy as np
from builders import make_dicom, make_pixels, make_png


def zipped(*seeds):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as bundle:
        for seed in seeds:
            bundle.writestr(f"in side/{seed}.png", make_png(make_pixels(seed=seed)))
    return content.getvalue()


FRAMES = np.stack([make_pixels(seed=seed, dtype=np.uint16) // 64 for seed in range(3)])
WARDS = {
    "plain.png": make_png(),
    "with space 100%25.png": make_png(make_pixels(seed=1)),
    "h#ash?a+b=[x].png": make_png(make_pixels(seed=2)),
    "röntgen/汉字/frames.dcm": make_dicom(FRAMES),
    "dir!/inner.png": make_png(make_pixels(seed=4)),
    "study.zip": zipped(5, 6),
    "empty.png": b"",
    "cut.png": make_png()[:500],
    "notes.txt": b"no image",
    ".hidden/x.png": make_png(),
}
REASONS = {"empty.png": "empty_file", "cut.png": "truncated", "notes.txt": "not_an_image"}
"""Why a file is in quarantine."""
