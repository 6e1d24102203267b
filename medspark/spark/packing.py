"""Which files a task gets: as many bytes as the others, so that no core waits long for the last one."""

import heapq

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_TASK_BYTES = 256 << 20  # some seconds of work: to begin a task and to end it takes 20 ms
_FILE_BYTES = 64 << 10  # what opening a file costs, in bytes read
_BUNDLES = 100  # of files a share: to place each file by itself takes as long as to stat it, and balances no better
_COMPRESSED = r"(\.t?gz)!/"  # between a compressed tar and its member


def packed(files: pa.Table, n_cores: int) -> list[pa.Table]:
    """Return the same rows in shares of bounded bytes, each in the order of paths; the last shares are smaller.

    A core that is done early then finds something small to do: how long a file takes is not in its bytes. What can
    only be read from its beginning, the members of a compressed tar, stays together. ``files`` has ``path``,
    ``size_bytes`` and maybe ``decoded_bytes``, which counts if it is larger; there are fewer shares than files.
    """
    files = files.sort_by("path")
    of_file = _together(files["path"])
    sizes = [files[name] for name in ("size_bytes", "decoded_bytes") if name in files.column_names]
    n_bytes = pc.fill_null(pc.max_element_wise(*sizes), 0).to_numpy()
    costs = np.bincount(of_file, n_bytes + _FILE_BYTES)
    n_large = max(n_cores, int(costs.sum()) // _TASK_BYTES - n_cores)
    weights = np.repeat((4, 2, 1), (n_large, n_cores, 2 * n_cores))[: max(1, len(files))]
    bundle_of = np.empty(len(costs), np.int64)
    bundle_of[np.argsort(-costs, kind="stable")] = np.arange(len(costs)) % (_BUNDLES * len(weights))
    share_of = _lpt(np.bincount(bundle_of, costs).astype(np.float64), weights)[bundle_of][of_file]
    ends = np.cumsum(np.bincount(share_of, minlength=len(weights)))[:-1]
    return [files.take(rows) for rows in np.split(np.argsort(share_of, kind="stable"), ends)]


def _together(paths: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return a number for each path, equal for the members of the same compressed tar."""
    numbers = np.arange(len(paths))
    is_member = pc.match_substring_regex(paths, _COMPRESSED, ignore_case=True).to_numpy()
    if is_member.any():
        members = paths.filter(pa.array(is_member))
        tars = pc.replace_substring_regex(members, f"(?i){_COMPRESSED}.*", r"\1").combine_chunks().dictionary_encode()
        first = np.unique(tars.indices, return_index=True)[1]
        numbers[is_member] = numbers[is_member][first][tars.indices]
    return numbers


def _lpt(costs: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the share of each item, so that the costs of shares are as their weights: Graham's LPT rule."""
    share_of = np.zeros(len(costs), np.int64)
    heaps = [[(0.0, int(share)) for share in np.flatnonzero(weights == weight)] for weight in np.unique(weights)]
    weight_of = np.unique(weights)
    for item in np.argsort(-costs, kind="stable"):
        loads = [(heap[0][0] + costs[item]) / weight for heap, weight in zip(heaps, weight_of, strict=True)]
        heap = heaps[int(np.argmin(loads))]
        load, share = heap[0]
        heapq.heapreplace(heap, (load + costs[item], share))
        share_of[item] = share
    return share_of
