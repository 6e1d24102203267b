"""Which decoders are installed: what failed with these may be read with others."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "imagecodecs", "nibabel", "opencv-python-headless", "pillow", "pydicom", "pyjpegls", "pylibjpeg-openjpeg",
    "pylibjpeg-rle", "simplejpeg", "tifffile",
)  # fmt: skip


@cache
def decoders() -> str:
    """Return the installed decoder packages and their versions, by name: ``pillow 12.0.0, pydicom 3.0.1``."""
    return ", ".join(f"{package} {found}" for package in _PACKAGES if (found := _version(package)))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
