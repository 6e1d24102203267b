"""pyspark from where pip put it, and not from the zips of itself that its launcher puts before that on the path.

Python compiles what is in a zip at each start, which takes as long as all else of the import.
"""

import sys
from pathlib import Path


def leave_out_zips() -> None:
    """Take the zips of an installed pyspark off the path, before pyspark is imported."""
    zips = [Path(entry, "pyspark", "python", "lib") for entry in sys.path]
    sys.path[:] = [entry for entry in sys.path if Path(entry).parent not in zips]
