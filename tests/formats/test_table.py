"""The conversion table: the inverse of every row restores the source, and patterns are parsed."""

import re

import numpy as np
import pytest
from einops import rearrange
from safetensors.torch import load_file

from cola_jax.formats.conversion import open_source
from cola_jax.formats.table import expected, places, split_axes
from cola_jax.params import axis_sizes
from tests import oracle


@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_rows_restore_tensors_to_the_bit(pair, variant):
    """Applies every pattern in reverse, and finds all tensors that transformers wrote."""
    models = pair(variant)
    rows = open_source(str(models.folder), None).rows
    config, theirs = models.ours.config, load_file(models.folder / "model.safetensors")
    for row in rows:
        weight = getattr(models.ours.layers, row.ours, None)
        weight = np.asarray(getattr(models.ours, row.ours) if weight is None else weight)
        reverse = " -> ".join(reversed(row.pattern.split(" -> ")))
        letters = re.findall(r"[A-Za-z]+", row.pattern)
        sizes = {letter: axis_sizes(config)[letter] for letter in letters}
        for place, (name, _) in zip(places(row, config), expected(row, config), strict=True):
            restored = rearrange(weight[place], reverse, **sizes)
            np.testing.assert_array_equal(restored, theirs.pop(name).numpy(), err_msg=name)
    assert not theirs


@pytest.mark.parametrize(
    ("pattern", "axes"),
    [
        ("(N H) D", [["N", "H"], ["D"]]),
        ("D (N h two)", [["D"], ["N", "h", "two"]]),
        ("V D", [["V"], ["D"]]),
    ],
)
def test_split_axes_reads_patterns(pattern, axes):
    assert [axis.split() for axis in split_axes(pattern)] == axes
