"""The conversion table: the inverse of every row restores the source."""

import re

import numpy as np
import pytest
from einops import rearrange
from safetensors.torch import load_file

from cola_jax.formats.conversion import locate
from cola_jax.formats.table import expected
from cola_jax.params import axis_sizes
from tests import oracle


@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_rows_restore_tensors_to_the_bit(pair, variant):
    """Apply every pattern in reverse, and find all tensors that transformers wrote."""
    models = pair(variant)
    rows = locate(str(models.folder)).open().rows
    config, theirs = models.ours.config, load_file(models.folder / "model.safetensors")
    for row in rows:
        weight = getattr(models.ours.layers, row.ours, None)
        weight = np.asarray(getattr(models.ours, row.ours) if weight is None else weight)
        reverse = " -> ".join(reversed(row.pattern.split(" -> ")))
        letters = re.findall(r"[A-Za-z]+", row.pattern)
        sizes = {letter: axis_sizes(config)[letter] for letter in letters}
        for place, name, _ in expected(row, config):
            restored = rearrange(weight[place], reverse, **sizes)
            np.testing.assert_array_equal(restored, theirs.pop(name).numpy(), err_msg=name)
    assert not theirs
