"""How large a frame may be: looked at in the header, before anything is decoded."""

from medspark.errors import TooLargeError


def check_size(rows: int, columns: int, n_bytes: int, *, max_pixels: int, max_bytes: int) -> None:
    """Raise TooLargeError for a frame of too many pixels, or of too many bytes once it is decoded."""
    if rows * columns >= max_pixels:
        raise TooLargeError(f"{rows} x {columns} pixels, fewer than {max_pixels} are allowed (limits.max_pixels)")
    if n_bytes > max_bytes:
        raise TooLargeError(f"{n_bytes} bytes when decoded, the limit is {max_bytes} (limits.memory_mb)")
