"""JPEG by libjpeg-turbo, strictly: a scan that decodes only by skipping damage is corrupt, not an image.

OpenCV and Pillow decode the same pixels with the same library, but leave its warnings to stderr, where nobody counts
them: a file with a few flipped bits becomes a gray smear and no error.
"""

from collections.abc import Iterator

import simplejpeg

from medspark.errors import CorruptError, TruncatedError
from medspark.frame import DEFAULT_LIMITS, Frame, Image
from medspark.readers import raster
from medspark.readers.formats import HEAD_BYTES, sniff
from medspark.readers.size import check_size


def can_read(content: bytes) -> bool:
    """Tell whether the content is a JPEG."""
    return sniff(content[:HEAD_BYTES]) == "jpeg"


def frames(
    content: bytes, *, max_pixels: int, max_bytes: int = DEFAULT_LIMITS.max_bytes, raw: bool = False
) -> Iterator[Frame]:
    """Yield the image: rows x columns of luma, or raw as stored (rows x columns [x samples in RGB or CMYK order]).

    EXIF orientation is left alone. Raises TooLargeError, TruncatedError or CorruptError.
    """
    try:
        rows, columns, colours, _ = simplejpeg.decode_jpeg_header(content)
        is_ours = not (raw and colours in {"CMYK", "YCCK"})  # Pillow knows which way round Adobe's ink is
    except ValueError:  # 12 bits, lossless, rare subsampling, or damage: OpenCV reads some and names the rest
        is_ours = False
    if not is_ours:
        yield from raster.frames(content, max_pixels=max_pixels, max_bytes=max_bytes, raw=raw)
        return
    wanted = "RGB" if raw and colours != "Gray" else "GRAY"
    n_bytes = rows * columns * (3 if wanted == "RGB" else 1)
    check_size(rows, columns, n_bytes, max_pixels=max_pixels, max_bytes=max_bytes)
    try:
        pixels: Image = simplejpeg.decode_jpeg(content, colorspace=wanted, strict=True)
    except ValueError as error:
        if "Premature end of JPEG file" in str(error):
            raise TruncatedError(f"the jpeg image ends before its end ({len(content)} bytes)") from None
        raise CorruptError(f"the jpeg scan is damaged ({len(content)} bytes)") from None
    yield Frame(pixels[..., 0] if wanted == "GRAY" else pixels)
