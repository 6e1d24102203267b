"""A small synthetic hospital archive: the same bytes for the same seed, and nobody's data.

Every UID lies under pydicom's own root (``pydicom.uid.PYDICOM_ROOT_UID``) and is a hash of the seed, so nothing here
depends on the clock, the machine or the order of writing. Patients ``2k + 1`` and ``2k + 2`` use the same scanner and
one of the two, by the toss of a coin, has the lesion: the classes are balanced and no scanner gives the class away.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image as PillowImage
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from medspark.errors import ConfigError
from medspark.frame import Image

CLASSES = ("normal", "lesion")


@dataclass(frozen=True)
class Scanner:
    """What a device writes; ``black`` and ``white`` are the stored values of the darkest and the brightest grey."""

    modality: str
    sop_class: uid.UID
    syntax: uid.UID
    side: int
    black: int = 0
    white: int = 4095
    bits: int = 12
    dtype: type[np.generic] = np.uint16
    photometric: str = "MONOCHROME2"
    slope: float | None = None
    intercept: float = 0.0
    window: tuple[float, float] | None = None  # center and width
    spacing_mm: float | None = None
    thickness_mm: float | None = None  # slices of a volume have one
    frames: int = 1
    name: str = "IM{number:04d}"

    def stored(self, pictures: Image) -> Image:
        """Return the pixels that the device stores for grey pictures in [0, 1] of shape frames x rows x columns."""
        greys = 1 - pictures if self.photometric == "MONOCHROME1" else pictures
        pixels: Image = np.rint(self.black + greys * (self.white - self.black)).astype(self.dtype)
        if self.photometric == "RGB":
            pixels = np.stack([pixels, pixels, pixels - pixels // 8], axis=-1)  # the amber tint of an ultrasound screen
        return pixels if self.frames > 1 else pixels[0]


_CT: dict[str, Any] = {"spacing_mm": 1.5, "thickness_mm": 5.0, "window": (40.0, 400.0), "slope": 1.0}
_CT_SIGNED = {**_CT, "black": -1000, "white": 1000, "bits": 16, "dtype": np.int16}
_CT_UNSIGNED = {**_CT, "black": 24, "white": 2024, "intercept": -1024.0}
_MR: dict[str, Any] = {"white": 1600, "bits": 16, "spacing_mm": 1.2, "thickness_mm": 4.0}
_XRAY: dict[str, Any] = {"spacing_mm": 0.15, "window": (2048.0, 4096.0)}
_US: dict[str, Any] = {"white": 255, "bits": 8, "dtype": np.uint8}
_PT: dict[str, Any] = {"white": 30000, "bits": 16, "spacing_mm": 4.0}

SCANNERS = (
    Scanner("CT", uid.CTImageStorage, uid.ExplicitVRLittleEndian, 192, **_CT_SIGNED),
    Scanner("CT", uid.CTImageStorage, uid.ImplicitVRLittleEndian, 160, **_CT_SIGNED, name="{number:08d}"),
    Scanner("CT", uid.CTImageStorage, uid.DeflatedExplicitVRLittleEndian, 192, **_CT_SIGNED, name="{uid}"),
    Scanner("CT", uid.CTImageStorage, uid.RLELossless, 192, **_CT_UNSIGNED, name="CT.{uid}.dcm"),
    Scanner("CT", uid.CTImageStorage, uid.JPEG2000Lossless, 192, **_CT_UNSIGNED, name="{number:04d}.dcm"),
    Scanner("MR", uid.MRImageStorage, uid.ImplicitVRLittleEndian, 160, **_MR, name="MR{number:06d}.dcm"),
    Scanner("MR", uid.MRImageStorage, uid.ExplicitVRBigEndian, 128, **_MR, name="I{number}"),
    Scanner("MR", uid.MRImageStorage, uid.RLELossless, 160, **_MR, name="{uid}.dcm"),
    Scanner("CR", uid.ComputedRadiographyImageStorage, uid.ImplicitVRLittleEndian, 256, **_XRAY),
    Scanner("CR", uid.ComputedRadiographyImageStorage, uid.RLELossless, 256, **_XRAY, photometric="MONOCHROME1"),
    Scanner(
        "DX", uid.DigitalXRayImageStorageForPresentation, uid.ExplicitVRLittleEndian, 256, **_XRAY,
        photometric="MONOCHROME1", name="{uid}.DCM",
    ),
    Scanner("DX", uid.DigitalXRayImageStorageForPresentation, uid.JPEG2000Lossless, 256, **_XRAY, name="DX{number}"),
    Scanner("US", uid.UltrasoundImageStorage, uid.ExplicitVRLittleEndian, 192, **_US, photometric="RGB"),
    Scanner("US", uid.UltrasoundImageStorage, uid.RLELossless, 192, **_US, photometric="RGB", name="{uid}.dcm"),
    Scanner("US", uid.UltrasoundMultiFrameImageStorage, uid.JPEGBaseline8Bit, 160, **_US, frames=4),
    Scanner("US", uid.UltrasoundImageStorage, uid.JPEGBaseline8Bit, 224, **_US, name="US{number:03d}.dcm"),
    Scanner("NM", uid.NuclearMedicineImageStorage, uid.DeflatedExplicitVRLittleEndian, 128, **{**_PT, "white": 900}),
    Scanner(
        "PT", uid.PositronEmissionTomographyImageStorage, uid.ExplicitVRLittleEndian, 128, **_PT,
        slope=0.25, thickness_mm=4.0, name="PT{number:05d}.dcm",
    ),
)  # fmt: skip


class Ellipse(NamedTuple):
    """A soft-edged region of the body; lengths are in halves of the image's sides."""

    x: float
    y: float
    width: float
    height: float
    level: float = 1.0

    def weights(self, shape: tuple[int, int], *, shrink: float = 1.0) -> Image:
        """Return how much each pixel belongs to the region, from 0 to 1."""
        rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
        distance = ((columns - self.x) / self.width) ** 2 + ((rows[:, None] - self.y) / self.height) ** 2
        return np.clip(4 * (shrink - distance), 0, 1)


@dataclass(frozen=True)
class Anatomy:
    """The shapes that the images of one series share; ``contrast`` is how far the lesion's texture stands out."""

    body: Ellipse
    organs: tuple[Ellipse, ...]
    spot: Ellipse
    contrast: float

    @classmethod
    def grow(cls, rng: np.random.Generator, *, contrast: float) -> "Anatomy":
        """Return a body, its organs and the place of a lesion, all drawn from ``rng``."""
        low, high = (-0.5, -0.5, 0.12, 0.12, -0.08), (0.5, 0.5, 0.4, 0.4, 0.12)
        organs = tuple(Ellipse._make(rng.uniform(low, high).tolist()) for _ in range(rng.integers(4, 8)))
        body = Ellipse._make(rng.uniform((0, 0, 0.75, 0.75, 0.5), (0, 0, 0.95, 0.95, 0.5)).tolist())
        spot = Ellipse._make(rng.uniform((-0.3, -0.3, 0.5, 0.5, 1), (0.3, 0.3, 0.75, 0.75, 1)).tolist())
        return cls(body, organs, spot, contrast)

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], *, height: float = 0.0) -> Image:
        """Return a picture, float32 in [0, 1], of the slice at ``height`` (-1 feet, 1 head)."""
        shrink = 1 - 0.4 * height**2
        body = self.body.weights(shape, shrink=shrink)
        tissue = self.body.level + 0.03 * _noise(rng, shape, sigma=max(shape) / 12)
        for organ in self.organs:
            tissue += organ.level * organ.weights(shape, shrink=shrink)
        texture = _noise(rng, shape, sigma=1.3, less=3.5)
        tissue += self.contrast * texture * self.spot.weights(shape, shrink=shrink)
        picture: Image = np.clip(tissue * body + 0.01 * _noise(rng, shape, sigma=0.7), 0, 1)
        return picture


def _noise(rng: np.random.Generator, shape: tuple[int, int], *, sigma: float, less: float | None = None) -> Image:
    """Return correlated noise of mean 0 and deviation 1: low-passed, or band-passed when ``less`` is a larger sigma."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigma)
    if less is not None:
        smooth = smooth - cv2.GaussianBlur(white, (0, 0), less)
    noise: Image = (smooth - smooth.mean()) / smooth.std()
    return noise


@dataclass(frozen=True)
class File:
    """A file of the archive; ``reason`` is the code a reader should give it, None when it should become frames."""

    path: str  # relative to the archive
    kind: str
    content: bytes
    patient: int | None = None
    label: str | None = None
    reason: str | None = None
    pixels: Image | None = field(default=None, repr=False)  # what was drawn, as stored


@dataclass(frozen=True)
class Inventory:
    """What was written; ``reasons`` is what each file that should not become frames should become instead."""

    labels: Path
    n_good: int
    n_damaged: int
    kinds: Mapping[str, int]
    classes: Mapping[str, int]
    reasons: Mapping[str, str]


def write_archive(directory: Path, *, patients: int = 40, seed: int = 42) -> Inventory:
    """Write the archive of ``patients`` patients, its ``incoming/`` folder and ``labels.csv``.

    ``labels.csv`` has a row ``path,label,patient_id`` for each good file, paths relative to ``directory``. It lies in
    the archive, so a listing meets it too: ``Inventory.reasons`` says ``not_an_image``. Patient k is the same whatever
    the number of patients. Raises ConfigError if ``patients`` is below 1 or ``directory`` is not empty.
    """
    if patients < 1:
        raise ConfigError(f"phantom: patients must be at least 1, got {patients}")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"phantom: {directory} is not empty; name a new directory")
    kinds: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    reasons = {"labels.csv": "not_an_image"}
    rows = ["path,label,patient_id"]
    for file in archive_files(patients=patients, seed=seed):
        _write(directory, file)
        kinds[file.kind] += 1
        if file.reason is not None:
            reasons[file.path] = file.reason
        elif file.label is not None and file.patient is not None:
            classes[file.label] += 1
            rows.append(f"{file.path},{file.label},{patient_id(file.patient)}")
    labels = directory / "labels.csv"
    labels.write_text("\n".join(rows) + "\n", encoding="utf-8")
    n_good = classes.total()
    return Inventory(labels, n_good, kinds.total() - n_good, dict(kinds), dict(classes), reasons)


def write_png_set(directory: Path, *, n: int, size: int, seed: int = 42) -> None:
    """Write ``n`` 8-bit PNG files of ``size`` x ``size`` pixels, each of another body, for measurements of speed."""
    for number in range(1, n + 1):
        rng = _rng(seed, "png set", number)
        picture = Anatomy.grow(rng, contrast=0.05).draw(rng, (size, size))
        pixels = np.rint(255 * picture).astype(np.uint8)
        _write(directory, File(f"{number:06d}.png", "PNG 8 bit", _encode(".png", pixels)))


def write_dicom_set(directory: Path, *, n: int, size: int, syntaxes: Sequence[uid.UID], seed: int = 42) -> None:
    """Write ``n`` 16-bit MR files of ``size`` x ``size`` pixels, each of another patient, the ``syntaxes`` in turn.

    A syntax is any of those in SCANNERS but JPEG baseline, which holds 8 bits only.
    """
    for number in range(1, n + 1):
        rng = _rng(seed, "dicom set", number)
        syntax = syntaxes[(number - 1) % len(syntaxes)]
        scanner = Scanner("MR", uid.MRImageStorage, syntax, size, **_MR)
        anatomy = Anatomy.grow(rng, contrast=0.05)
        _write(directory, next(series_files(rng, scanner, anatomy, n=1, patient=number, study=1, seed=seed)))


def _write(directory: Path, file: File) -> None:
    target = directory / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.content)


def archive_files(*, patients: int, seed: int) -> Iterator[File]:
    """Yield every file of the archive but ``labels.csv``, patient by patient, ``incoming/`` last."""
    for patient in range(1, patients + 1):
        yield from patient_files(patient, seed=seed)
    yield from incoming_files(seed=seed)


def patient_id(patient: int) -> str:
    """Return the PatientID of patient number ``patient``."""
    return f"PHANTOM-{patient:04d}"


def label(patient: int, *, seed: int) -> str:
    """Return the class of a patient."""
    pair, second = divmod(patient - 1, 2)
    return CLASSES[(int(_rng(seed, "pair", pair).integers(2)) + second) % 2]


def texture_contrast(patient: int, *, seed: int) -> float:
    """Return how far the texture in a patient's images stands out, in shares of the grey range."""
    # Chosen so that no classifier is perfect: scikit-image's uniform LBP (8,1) (16,2) (24,3) and a forest of 100 trees
    # reach a grouped five-fold AUC of 0.89 to 0.98 over five seeds, with and without a median filter.
    low, high = (0.04, 0.11) if label(patient, seed=seed) == "lesion" else (0.0, 0.02)
    return float(_rng(seed, "texture", patient).uniform(low, high))


def patient_files(patient: int, *, seed: int) -> Iterator[File]:
    """Yield the 3 to 10 good files of a patient: a series a study, the last study with exported captures beside it."""
    rng = _rng(seed, "patient", patient)
    n_studies, n_captures, n_images = rng.integers(1, 3), rng.integers(1, 3), rng.integers(3, 11)
    contrast = texture_contrast(patient, seed=seed)
    scanners = (SCANNERS[(patient - 1) // 2 % len(SCANNERS)], SCANNERS[rng.integers(len(SCANNERS))])
    shares = np.array_split(np.arange(max(n_images - n_captures, n_studies)), n_studies)
    for study, (scanner, numbers) in enumerate(zip(scanners, shares, strict=False), start=1):
        anatomy = Anatomy.grow(rng, contrast=contrast)
        yield from series_files(rng, scanner, anatomy, n=len(numbers), patient=patient, study=study, seed=seed)
    for number in range(1, n_captures + 1):
        yield capture_file(rng, anatomy, number=number, patient=patient, study=study, seed=seed)


def series_files(
    rng: np.random.Generator, scanner: Scanner, anatomy: Anatomy, *, n: int, patient: int, study: int, seed: int
) -> Iterator[File]:
    """Yield a series of ``n`` DICOM files."""
    shape = (scanner.side, scanner.side)
    for number, height in enumerate(np.linspace(-0.7, 0.7, n).tolist(), start=1):
        heights = np.linspace(height, height + 0.1, scanner.frames).tolist()
        pixels = scanner.stored(np.stack([anatomy.draw(rng, shape, height=z) for z in heights]))
        dataset = header(scanner.sop_class, scanner.modality, patient=patient, study=study, number=number, seed=seed)
        name = scanner.name.format(number=number, uid=dataset.SOPInstanceUID)
        yield File(
            f"{patient_id(patient)}/ST{study:03d}/SE001_{scanner.modality}/{name}",
            f"DICOM {scanner.modality} {scanner.syntax.name}",
            dicom(dataset, scanner, pixels),
            patient,
            label(patient, seed=seed),
            pixels=pixels,
        )


def capture_file(
    rng: np.random.Generator, anatomy: Anatomy, *, number: int, patient: int, study: int, seed: int
) -> File:
    """Return an exported capture: a PNG of 8 or 16 bits or a JPEG."""
    kind, extension, dtype = (
        ("PNG 8 bit", ".png", np.uint8),
        ("PNG 16 bit", ".png", np.uint16),
        ("JPEG", ".jpg", np.uint8),
    )[rng.integers(3)]
    picture = anatomy.draw(rng, (int(rng.integers(128, 225)), 192), height=float(rng.uniform(-0.5, 0.5)))
    pixels = np.rint(picture * np.iinfo(dtype).max).astype(dtype)
    path = f"{patient_id(patient)}/ST{study:03d}/export/capture_{number:02d}{extension}"
    return File(path, kind, _encode(extension, pixels), patient, label(patient, seed=seed), pixels=pixels)


def incoming_files(*, seed: int) -> Iterator[File]:
    """Yield what a real inbox holds: damaged files, files under wrong names, a copy, all of patient 1 if of anybody."""
    rng = _rng(seed, "incoming")
    anatomy = Anatomy.grow(rng, contrast=texture_contrast(1, seed=seed))
    dicom_file = next(series_files(rng, SCANNERS[0], anatomy, n=1, patient=1, study=9, seed=seed))
    copied = next(patient_files(1, seed=seed))
    pixels = np.rint(255 * anatomy.draw(rng, (160, 192))).astype(np.uint8)
    png, jpeg = _encode(".png", pixels), _encode(".jpg", pixels)
    report = header(uid.BasicTextSRStorage, "SR", patient=1, study=9, number=2, seed=seed)
    bad_crc = bytearray(png)
    bad_crc[-13] ^= 0xFF  # the last byte of the CRC of the last IDAT: IEND takes the 12 after it
    for name, kind, content, reason in (
        ("empty.dcm", "empty file", b"", "empty_file"),
        ("viewer.jpg", "HTML", b"<!DOCTYPE html>\n<html><body>Session expired</body></html>\n", "not_an_image"),
        ("notes.dcm", "text", b"CD 2 of 3 arrived without a cover letter.\n", "not_an_image"),
        ("cut.png", "truncated PNG", png[: len(png) // 2], "truncated"),
        ("cut.jpg", "truncated JPEG", jpeg[: len(jpeg) // 2], "truncated"),
        ("cut.dcm", "truncated DICOM", dicom_file.content[: -len(dicom_file.content) // 2], "truncated"),
        ("checksum.png", "PNG with a wrong CRC", bytes(bad_crc), "corrupt"),
        ("report.dcm", "DICOM SR", _saved(report, uid.ExplicitVRLittleEndian), "no_pixel_data"),
        (".DS_Store", "hidden", b"\x00\x00\x00\x01Bud1\x00\x00\x10\x00", "hidden"),
    ):
        yield File(f"incoming/{name}", kind, content, reason=reason)
    for name, kind, content, drawn in (
        ("really_dicom.png", "DICOM named .png", dicom_file.content, dicom_file.pixels),
        ("copy", "duplicate", copied.content, copied.pixels),
        ("Röntgen Thorax 100%.png", "PNG 8 bit", png, pixels),
    ):
        yield File(f"incoming/{name}", kind, content, 1, label(1, seed=seed), pixels=drawn)


def header(sop_class: uid.UID, modality: str, *, patient: int, study: int, number: int, seed: int) -> Dataset:
    """Return the patient, study, series and instance attributes of a DICOM object, all of them invented."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = _uid(seed, patient, study, modality, number)
    dataset.StudyDate, dataset.StudyTime = f"2020{study:02d}{patient % 28 + 1:02d}", "120000"
    dataset.AccessionNumber = f"A{patient:04d}{study:02d}"
    dataset.Modality = modality
    dataset.Manufacturer = "medspark phantom (synthetic)"
    dataset.ReferringPhysicianName = "Phantom^Referrer"
    dataset.SeriesDescription = f"synthetic {modality}"
    dataset.PatientName, dataset.PatientID = f"Phantom^{patient:04d}", patient_id(patient)
    dataset.PatientBirthDate, dataset.PatientSex = f"19{patient % 60 + 30}0101", "O"
    dataset.StudyInstanceUID = _uid(seed, patient, study)
    dataset.SeriesInstanceUID = _uid(seed, patient, study, modality)
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = str(study), 1, number
    return dataset


def dicom(dataset: Dataset, scanner: Scanner, pixels: Image) -> bytes:
    """Return the DICOM file (PS3.10) of a header and stored pixels, in the scanner's transfer syntax."""
    if scanner.window is not None:
        dataset.WindowCenter, dataset.WindowWidth = scanner.window
    if scanner.slope is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = scanner.slope, scanner.intercept
    if scanner.spacing_mm is not None:
        dataset.PixelSpacing = [scanner.spacing_mm, scanner.spacing_mm]
    if scanner.thickness_mm is not None and scanner.spacing_mm is not None:
        corner = -scanner.spacing_mm * (scanner.side - 1) / 2
        dataset.SliceThickness = scanner.thickness_mm
        dataset.ImagePositionPatient = [corner, corner, scanner.thickness_mm * dataset.InstanceNumber]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.FrameOfReferenceUID = _uid(dataset.SeriesInstanceUID, "frame of reference")
    if scanner.frames > 1:
        dataset.FrameTime, dataset.FrameIncrementPointer = 40, 0x00181063
    dataset.set_pixel_data(pixels, scanner.photometric, scanner.bits, generate_instance_uid=False)
    if scanner.syntax == uid.RLELossless:
        dataset.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif scanner.syntax in _FRAME_ENCODERS:
        frames = pixels if scanner.frames > 1 else pixels[None]
        dataset.PixelData = encapsulate([_FRAME_ENCODERS[scanner.syntax](frame) for frame in frames])
        dataset["PixelData"].VR = "OB"
    elif not scanner.syntax.is_little_endian:
        dataset.PixelData = pixels.byteswap().tobytes()
    if scanner.syntax == uid.JPEGBaseline8Bit:
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    return _saved(dataset, scanner.syntax)


def _saved(dataset: Dataset, syntax: uid.UID) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _encode(extension: str, pixels: Image) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


def _jpeg2000(pixels: Image) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True)  # no_jp2: a raw codestream, as DICOM wants
    return buffer.getvalue()


_FRAME_ENCODERS: dict[uid.UID, Callable[[Image], bytes]] = {
    uid.JPEGBaseline8Bit: lambda pixels: _encode(".jpg", pixels),
    uid.JPEG2000Lossless: _jpeg2000,
}


def _rng(seed: int, *parts: str | int) -> np.random.Generator:
    words = np.frombuffer("/".join(map(str, parts)).encode(), np.uint8)
    return np.random.Generator(np.random.PCG64([seed, *words]))


def _uid(*parts: str | int) -> uid.UID:
    return uid.generate_uid(prefix=uid.PYDICOM_ROOT_UID, entropy_srcs=["/".join(map(str, parts))])
