"""Arrays and tensors from outside: taken without a copy, read in pieces, checked for NaN."""

import mmap
from typing import Any

import numpy as np

from icl_plugins.errors import DataError, NonFiniteError


def as_features(block: Any) -> np.ndarray:
    """Return a block as a plain array, not copied if on this device; DataError if it cannot be one."""
    block = from_tensor(block)
    if not isinstance(block, np.ndarray) or isinstance(block, np.ma.MaskedArray):
        raise DataError(
            f"features of type {type(block).__name__}",
            expected="an array or tensor (N, d), or a sequence of them",
            fix="convert with numpy.asarray",
        )
    if block.ndim != 2 or 0 in block.shape or block.dtype.char not in "efd":
        raise DataError(
            f"features of shape {block.shape} and type {block.dtype}",
            expected="(N, d) with a row and a column at least, float16, float32 or float64",
            fix="reshape or convert them",
        )
    return block.view(np.ndarray)


def from_tensor(tensor: Any) -> Any:
    """Return a torch tensor as an array, gradients left behind; anything else as it is."""
    if type(tensor).__module__.partition(".")[0] != "torch" or not hasattr(tensor, "detach"):
        return tensor
    if tensor.is_meta or tensor.layout != _torch().strided:
        return tensor
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == _torch().bfloat16 else tensor).numpy()


def _torch() -> Any:
    import torch

    return torch


def native(tile: np.ndarray) -> np.ndarray:
    """Return the tile as BLAS takes it: native, rows contiguous, copied only if need be."""
    if tile.dtype.itemsize == 2:
        torch = _torch()  # numpy converts halves one at a time: ten times slower
        half = torch.from_numpy(np.array(tile, dtype=np.float16, order="C"))
        return half.float().numpy()  # type: ignore[no-any-return]
    packed = tile.strides[1] == tile.itemsize and tile.strides[0] >= tile.itemsize * tile.shape[1]
    return (
        tile
        if packed and tile.dtype.isnative
        else np.array(tile, dtype=tile.dtype.newbyteorder("="), order="C")
    )


def release(array: Any) -> None:
    """Give the pages of a mapped file back, so that streaming a file does not fill this process's memory."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    # Private pages (mode "c") may hold changes that exist nowhere else.
    if isinstance(array, np.memmap) and array.mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        while isinstance(array, np.ndarray):
            array = array.base
        if isinstance(array, mmap.mmap):
            array.madvise(mmap.MADV_DONTNEED)


def refuse_non_finite(values: np.ndarray) -> None:
    """Raise NonFiniteError that names the rows of an (N, M) array with NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise NonFiniteError(
            f"NaN or infinity in {bad.size} of {len(values)} rows, the first ones {bad[:10].tolist()}",
            expected="finite features",
            fix="remove these rows from the features (excluded ones stay in the mean), or use float32",
        )
