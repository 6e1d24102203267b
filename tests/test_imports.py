"""Who may import whom: the layers of the design, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module imports from layers above its own line, and within its own package.
LAYERS = (
    ("errors", "compiled", "unzipped"),
    ("log", "java"),
    ("hadoop",),
    ("remote",),
    ("storage",),
    ("frame", "files"),
    ("ops", "containers"),
    (
        "readers",
        "steps",
        "features",
        "models",
        "metrics",
        "privacy",
        "report",
        "split",
        "drift",
        "fingerprint",
        "likeness",
        "phantom",
    ),
    ("recipe", "series", "bundle", "selection", "uncertainty"),
    ("config", "warehouse", "catalogue"),
    ("upkeep", "exchange", "tracking"),
    ("spark", "daemon"),
    ("jobs",),
    ("ship",),
    ("classes", "demo", "doctor", "driver", "submit"),
    ("cli",),
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}

SPARK = {"pyspark", "py4j"}
IMAGES = {"cv2", "skimage", "PIL", "tifffile", "pydicom", "nibabel", "imagecodecs"}
KERNELS = {"pyarrow", "pandas", "pydicom"}
NOT_FOR = {"steps": KERNELS, "features": KERNELS, "report": KERNELS, "models": IMAGES, "jobs": IMAGES}
NOT_FOR["spark"] = {"cv2", "skimage"}

SOURCES = [*(ROOT / "medspark").glob("*/**/*.py"), *(ROOT / "medspark").glob("[!_]*.py"), *(ROOT / "jobs").glob("*.py")]


def package_of(path):
    """Return the first word of a module inside of medspark."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "jobs" else parts[1]


def imported(source):
    """Yield the full names of what a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(package, source):
    """Return what a module of a package imports and may not."""
    foreign = NOT_FOR.get(package, set()) | (SPARK if LAYER_OF[package] < LAYER_OF["spark"] else set())
    found = []
    for name in imported(source):
        first, _, rest = name.partition(".")
        if first == "medspark":
            of = rest.partition(".")[0]
            if of in LAYER_OF and of != package and LAYER_OF[of] >= LAYER_OF[package]:
                found.append(name)
        elif first in foreign:
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_a_module_imports_only_what_its_layer_may(path):
    package = package_of(path)
    assert package in LAYER_OF, f"{package} is new: give it a layer"
    assert wrong_imports(package, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("ops", "from medspark.readers import read_image"),
        ("readers", "import medspark.recipe"),
        ("readers", "from medspark import spark"),
        ("readers", "from medspark.steps.denoise import median"),
        ("steps", "import pyarrow.parquet as pq"),
        ("features", "def lbp():\n    from pydicom import dcmread"),
        ("spark", "import cv2"),
        ("spark", "from medspark.jobs import index"),
        ("jobs", "from skimage.feature import canny"),
        ("recipe", "from pyspark.sql import functions as F"),
        ("config", "import pyspark"),
    ],
)
def test_a_wrong_import_would_be_found(package, source):
    assert len(wrong_imports(package, source)) == 1


def test_every_layer_is_there():
    assert {package_of(path) for path in SOURCES} == LAYER_OF.keys()


def loaded_by(statement):
    """Return the top names of all modules that a fresh interpreter has after a statement."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_medspark_loads_neither_spark_nor_the_image_packages():
    assert not loaded_by("import medspark") & (SPARK | IMAGES | {"numpy", "pandas", "pyarrow", "numba", "sklearn"})


def test_a_recipe_needs_no_spark():
    loaded = loaded_by("import medspark; medspark.Recipe.from_toml('default').feature_names")
    assert "cv2" in loaded
    assert not loaded & (SPARK | {"pandas", "pyarrow", "sklearn", "deltalake"})


def test_the_command_line_starts_without_spark():
    assert not loaded_by("import medspark.cli") & (SPARK | IMAGES | {"numpy"})
