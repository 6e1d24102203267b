"""Why Spark's own image source is not used."""

import numpy as np
from builders import make_png

from medspark import read_image

PIXELS = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21


def test_a_16_bit_png_keeps_all_its_bits_where_the_image_source_of_spark_loses_the_upper_half(spark, tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(make_png(PIXELS))
    (frame,) = read_image(path)
    np.testing.assert_array_equal(frame.pixels, PIXELS, strict=True)
    row = spark.read.format("image").load(str(path)).select("image.*").head()
    sparks = np.frombuffer(bytes(row.data), np.uint8).reshape(row.height, row.width)
    np.testing.assert_array_equal(sparks, PIXELS & 0xFF)
