from itertools import combinations

import numpy as np
import pytest

from icl_plugins.report.colours import DARK, LIGHT

# Full protanopia, deuteranopia and tritanopia in linear RGB (Machado, Oliveira and Fernandes 2009).
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
TO_CONES = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
TO_OKLAB = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]


def linear(colour):
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(colour, vision):
    seen = np.clip(np.array(VISIONS[vision]) @ linear(colour), 0, 1)
    return np.array(TO_OKLAB) @ np.cbrt(np.array(TO_CONES) @ seen)


def contrast(colour, other):
    low, high = sorted(np.array([0.2126, 0.7152, 0.0722]) @ linear(name) for name in (colour, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_stands_out_at_4_5_and_marks_at_3(colours):
    for name in ("ink", "muted", "link"):
        assert min(contrast(colours[name], colours[behind]) for behind in ("paper", "panel")) >= 4.5
    marks = [name for name in colours if name.startswith("series")] + ["other"]
    assert min(contrast(colours[name], colours["paper"]) for name in marks) >= 3


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_the_series_are_told_apart_with_every_kind_of_colour_vision(colours, vision):
    series = [colours[name] for name in colours if name.startswith("series")]
    distances = [np.linalg.norm(oklab(a, vision) - oklab(b, vision)) for a, b in combinations(series, 2)]
    assert min(distances) > 0.09  # some four times what is just seen


def test_both_modes_have_the_same_names_and_each_value_stands_for_one_name():
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
