"""Steps: the layer at each position of a path, and its scale."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.path import STOP
from cola_jax.steps import layer_of, scale_of, steps_of
from tests.test_config import fields_of

ROOTED = ModelConfig.from_fields(fields_of(output_scales=True, rooted_scales=True))
PATHS = np.array([[0, 1, 1, 2, STOP], [2, 2, 0, 2, 1]])
STEPS = np.array([[0, 4, 4, 2, STOP], [8, 8, 0, 8, 1]])


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_steps_count_the_runs_of_a_layer_where_scales_are_roots(array):
    np.testing.assert_array_equal(steps_of(ROOTED, array(PATHS)), STEPS)
    plain = dataclasses.replace(ROOTED, rooted_scales=False)
    np.testing.assert_array_equal(steps_of(plain, array(PATHS)), PATHS)


def test_layer_of_and_scale_of_read_steps():
    np.testing.assert_array_equal(layer_of(ROOTED, STEPS[1]), PATHS[1])
    scales = scale_of(ROOTED, STEPS[1], np.full((5, 1), 0.125, np.float32))
    np.testing.assert_allclose(scales[:, 0], [0.5, 0.5, 0.125, 0.5, 0.125], rtol=1e-6)
    assert scales[2, 0] == 0.125  # to the bit, as of models without roots


def test_steps_of_paths_that_run_a_layer_too_often_are_refused():
    with pytest.raises(InputError, match="runs a layer 21846 times"):
        steps_of(ROOTED, np.full((1, 21846), 2))
