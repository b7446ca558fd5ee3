"""The conversion table: the inverse of every row restores the source."""

import numpy as np
import pytest
from safetensors.torch import load_file

from cola_jax.formats.conversion import locate
from cola_jax.formats.table import stack, unstack
from tests import oracle


@pytest.mark.parametrize("variant", oracle.EACH)
def test_unstack_restores_tensors_to_the_bit(pair, variant):
    """Apply every row in reverse, and find all tensors that transformers wrote."""
    folder = pair(variant).folder
    source, theirs = locate(str(folder)).open(), load_file(folder / "model.safetensors")
    for name, restored in unstack(
        stack(source),
        source.rows,
        source.config,
        range(source.config.num_layers),
        source.config.stack_index,
    ):
        np.testing.assert_array_equal(restored, theirs.pop(name).numpy(), err_msg=name)
    assert not theirs
