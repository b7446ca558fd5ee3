"""Colours of the pages: contrast with their background, and with each other."""

import itertools
import re

import numpy as np
import pytest

from cola_jax.report.compare import MOST
from cola_jax.report.page import asset

# what people with each type of colour vision see, of linear RGB (Machado et al., 2009)
VISION = {
    "common": np.eye(3),
    "deuteranopia": np.array(
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    ),
    "protanopia": np.array(
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    ),
    "tritanopia": np.array(
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]
    ),
}
RUNS = [f"run-{i}" for i in range(1, MOST + 1)]
VERDICTS = ["cc", "wc", "cw", "ww"]


def palette(scheme: str) -> dict[str, np.ndarray]:
    """Returns the colours of the style as linear RGB by name."""
    light, dark = asset("page.css").split("@media screen and (prefers-color-scheme: dark)")
    text = light if scheme == "light" else dark.split("* {")[0]
    colours = re.findall(r"--([\w-]+): #([0-9a-f]{6});", text)
    assert colours
    values = {name: np.frombuffer(bytes.fromhex(code), np.uint8) / 255 for name, code in colours}
    return {
        n: np.where(c <= 0.04, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for n, c in values.items()
    }


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the contrast as WCAG defines it."""
    low, high = sorted(float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(colour: np.ndarray) -> np.ndarray:
    """Returns CIELAB of linear RGB, in which distances are those seen."""
    to_xyz = np.array([[0.412, 0.358, 0.181], [0.213, 0.715, 0.072], [0.019, 0.119, 0.951]])
    xyz = to_xyz @ np.clip(colour, 0, 1) / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(scheme: str):
    colours = palette(scheme)
    for name in ("ink", "muted", "accent", "control", "bad", *RUNS):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(colours["control"], colours["control-wash"]) >= 4.5
    assert contrast(colours["muted"], colours["card"]) >= 4.5
    for name in (*VERDICTS, "better", "worse"):
        assert contrast(colours[name], colours["paper"]) >= 3, name
    assert contrast(colours["on-cc"], colours["cc"]) >= 4.5
    for name in VERDICTS[1:]:
        assert contrast(colours["on-other"], colours[name]) >= 4.5, name


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart(scheme: str, vision: str):
    seen = {name: lab(VISION[vision] @ colour) for name, colour in palette(scheme).items()}
    for names, least in ((RUNS, 20), (VERDICTS, 10)):  # verdicts are named in their bars too
        for a, b in itertools.combinations(names, 2):
            assert np.linalg.norm(seen[a] - seen[b]) >= least, (a, b)
