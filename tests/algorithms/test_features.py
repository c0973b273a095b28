"""Features on disk are streamed: little memory, and the file and its pending changes stay as they are."""

import gc
from pathlib import Path

import numpy as np
import pytest
from paths import from_features, heavy_tailed

from icl_plugins.algorithms.matching import centered_gram, match


def stored(path, features, mode):
    features.tofile(path)
    return np.memmap(path, features.dtype, mode, shape=features.shape)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_mapped_files_match_like_arrays(tmp_path, mode):
    features = heavy_tailed(90, 12, dtype=np.float32)
    mapped = [stored(tmp_path / "a", features[:, :5], mode), stored(tmp_path / "b", features[:, 5:], mode)]
    for shots in (3, 60):
        assert match(mapped, shots).indices.tolist() == match(features, shots).indices.tolist()
    np.testing.assert_allclose(centered_gram(mapped), centered_gram(features))


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_changes_that_are_not_on_disk_yet_survive(tmp_path, mode):
    """Pages are given back after reading; those that hold the only copy of a change must not be lost."""
    features = heavy_tailed(90, 300, dtype=np.float32)
    mapped = stored(tmp_path / "a", features, mode)
    mapped[7] *= 3
    expected = np.array(mapped)
    found = match(mapped, 5)
    assert (mapped == expected).all() and (expected[7] == 3 * features[7]).all()
    assert found.indices.tolist() == match(expected, 5).indices.tolist()


def peak_memory():
    return int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[
            1
        ]
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_file_of_120_mb_is_matched_in_a_fraction_of_its_size(tmp_path):
    path = tmp_path / "features"
    with path.open("wb") as file:
        for part in range(10):
            file.write(heavy_tailed(200, 15_000, seed=part, dtype=np.float32).tobytes())
    mapped = np.memmap(path, np.float32, "r", shape=(2000, 15_000))
    from_features(heavy_tailed(600, 1500, dtype=np.float32), 4)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    assert len(match(mapped, 4).indices) == 4
    assert peak_memory() - before < 60_000  # kB
