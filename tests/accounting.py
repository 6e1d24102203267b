"""Whether nothing was lost: added up from the tables and the file system, with nothing of medspark but its files."""

import os
from collections import Counter, defaultdict

from line import last_run, rows

FATES = ("processed", "unchanged", "skipped", "quarantined")


def walk(archive):
    """Return every file below a directory, as tables show its path; links to directories are not followed."""
    found = (directory + b"/" + name for directory, _, names in os.walk(os.fsencode(archive)) for name in names)
    return {path.decode("utf-8", "backslashreplace") for path in found}


def faults(warehouse, files):
    """Return in words what does not add up after a run over these files; nothing where all is well."""
    run, images = last_run(warehouse), rows(warehouse, "images")
    counts = {name: run[f"n_{name}"] for name in FATES}
    there = {row["path"]: row for row in images if row["gone_at"] is None}
    listed = [row for row in images if row["gone_at"] is None]
    found = [f"{path}: {n} rows in images" for path, n in Counter(row["path"] for row in images).items() if n > 1]
    found += [f"{row['path']}: {row['status']}, gone_at {row['gone_at']}" for row in images if _is_torn(row)]
    if not run["n_listed"] == sum(counts.values()) == len(listed):
        found.append(f"{run['n_listed']} listed, {counts}, {len(listed)} rows in images")
    covered = {path.split("!/")[0] for path in there}  # an archive is there by its members
    closed = tuple(f"{path}/" for path, row in there.items() if row["reason"] == "unreadable")
    found += [f"{path}: not in images" for path in sorted(files - covered) if not path.startswith(closed)]
    if run["job"] == "index":
        return found
    by_status = Counter(row["status"] for row in listed)
    if by_status != Counter({name: n for name, n in counts.items() if n}):
        found.append(f"{counts} in runs, {dict(by_status)} in images")
    return found + _disagreements(warehouse, images, there, closed)


def _is_torn(row):
    return (row["status"] == "gone") != (row["gone_at"] is not None)


def _disagreements(warehouse, images, there, closed):
    """Compare the status of each file with its rows in the tables of frames."""
    recipe_id = last_run(warehouse)["recipe_id"]
    measured, failed = (
        [row for row in rows(warehouse, name) if row["recipe_id"] == recipe_id] for name in ("features", "quarantine")
    )
    frames = Counter((row["path"], row["frame"]) for row in measured + failed)
    found = [f"{path}, frame {frame}: {n} rows" for (path, frame), n in frames.items() if n > 1]
    left = {row["path"] for row in images if row["status"] in ("gone", "skipped")}
    for row in measured + failed:
        if (row["gone_at"] is not None) != (row["path"] in left):
            found.append(f"{row['path']}: {'gone' if row['gone_at'] else 'there'}, and not so in images")
        elif row["path"] not in there and row["path"] not in left and not row["path"].startswith(closed):
            found.append(f"{row['path']}: rows of a file that is not in images")
    by_path = defaultdict(lambda: ([], []))
    for side, table in enumerate((measured, failed)):
        for row in table:
            if row["gone_at"] is None:
                by_path[row["path"]][side].append(row)
    return found + [f"{path}: {what}" for path, row in there.items() for what in _contradictions(row, *by_path[path])]


def _contradictions(image, good, bad):
    """Yield where a row of images does not tell what the rows of its frames tell."""
    is_done = image["status"] in ("processed", "unchanged")
    is_right = {
        "quarantined": bad and image["reason"] in {row["reason"] for row in bad},
        "skipped": image["reason"] and not good and not bad,
    }.get(image["status"], is_done and good and not bad)
    if not is_right:
        yield f"{image['status']}, {len(good)} rows in features, {len(bad)} in quarantine"
    if {row["content_sha256"] for row in good + bad} - {image["content_sha256"]}:
        yield "rows of other content than in images"
    if is_done and [row["frame"] for row in good] != list(range(image["n_frames"] or len(good))):
        yield f"{len(good)} rows in features, {image['n_frames']} frames"
