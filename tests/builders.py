"""Images made in memory: no binary files in git."""

import io

import cv2
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def make_pixels(rows=48, columns=64, dtype=np.uint8, seed=0):
    """A smooth shape with texture: every step has something to find in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    shape = 90 + 100 * (((x - columns / 2) / (columns / 3)) ** 2 + ((y - rows / 2) / (rows / 3)) ** 2 < 1)
    image = np.clip(shape + rng.normal(0, 12, (rows, columns)), 0, 255)
    return (image * (np.iinfo(dtype).max // 255)).astype(dtype)


def make_png(pixels=None):
    return cv2.imencode(".png", make_pixels() if pixels is None else pixels)[1].tobytes()


def make_jpeg(pixels=None, quality=95):
    return cv2.imencode(".jpg", make_pixels() if pixels is None else pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def make_dicom(pixels=None, syntax=ExplicitVRLittleEndian, preamble=True, **attributes):
    """A DICOM object; attributes are set by keyword, None removes one."""
    pixels = make_pixels(dtype=np.uint16) // 64 if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["medspark tests"])
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 * pixels.dtype.itemsize
    frames = {"NumberOfFrames": len(pixels)} if pixels.ndim == 3 else {}
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT",
        "PatientID": "P1",
        "PatientName": "Nobody^Test",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **frames,
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    pydicom.dcmwrite(
        file,
        dataset,
        enforce_file_format=preamble,
        implicit_vr=None if preamble else False,
        little_endian=None if preamble else True,
    )
    return file.getvalue()
