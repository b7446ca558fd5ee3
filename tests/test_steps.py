"""Steps: what ids say, and how often a path runs a layer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.params import scale_of
from cola_jax.path import STOP
from cola_jax.steps import (
    ATTENTION,
    MLP,
    WHOLE,
    Step,
    is_step,
    is_whole,
    layer_of,
    modifier_of,
    part_of,
    runs_of,
    share_of,
    with_runs,
    without_runs,
)
from tests.test_config import fields_of

ROOTED = ModelConfig.from_fields(fields_of(output_scales=True, rooted_scales=True))
STEPS = [Step(2), Step(1, ATTENTION), Step(0, MLP, 0.125), Step(999, WHOLE, 2.0), Step(1)]
IDS = np.array([step.id for step in STEPS], np.int32)
PATHS = np.array([[0, 1, 1, 2, STOP], [2, Step(2, MLP).id, 0, Step(2, share=0.5).id, 1]])
RUNS = [[1, 2, 2, 1], [3, 3, 1, 3, 1]]


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_ids_tell_their_steps(array):
    ids = array(IDS)
    for facts in (ids, with_runs(ids)):
        np.testing.assert_array_equal(layer_of(facts), [step.layer for step in STEPS])
        np.testing.assert_array_equal(part_of(facts), [step.part for step in STEPS])
        np.testing.assert_allclose(share_of(facts), [step.share for step in STEPS])
        np.testing.assert_array_equal(modifier_of(facts), [step.modifier for step in STEPS])
        np.testing.assert_array_equal(is_whole(facts), [True, False, False, False, True])
    np.testing.assert_array_equal(without_runs(with_runs(ids)), IDS)
    assert [Step.of(id) for id in IDS] == STEPS
    assert Step(7).id == 7
    assert is_whole(STOP)


def test_is_step_refuses_ids_without_a_step():
    others = [STOP, 1000, 3 << 21, Step(0, share=2.0).id + (1 << 10), 1000 << 10, 1 << 23]
    assert not is_step(np.array(others), 1000).any()
    assert is_step(IDS, 1000).all()
    assert not is_step(IDS, 2)[[0, 3]].any()


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0, "not a share of an update"),
        (-0.5, "not a share of an update"),
        (2.001, "not a share of an update"),
        (float("nan"), "not a share of an update"),
        (float("inf"), "not a share of an update"),
        (1 / 3, r"more than three decimals: round it, to 0\.333"),
        (0.0001, "more than three decimals"),
    ],
)
def test_shares_out_of_range_or_too_fine_are_refused(share, message):
    with pytest.raises(InputError, match=message):
        _ = Step(0, share=share).id


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_with_runs_counts_the_runs_of_a_layer_in_any_part(array):
    counted = ROOTED.with_runs(array(PATHS))
    np.testing.assert_array_equal(runs_of(counted[0, :4]), RUNS[0])
    np.testing.assert_array_equal(runs_of(counted[1]), RUNS[1])
    assert counted[0, 4] == STOP
    plain = dataclasses.replace(ROOTED, rooted_scales=False)
    np.testing.assert_array_equal(plain.with_runs(array(PATHS)), PATHS)


def test_scale_of_takes_the_root_of_the_runs():
    steps = ROOTED.with_runs(PATHS[1])
    scales = scale_of(steps, np.full((5, 1), 0.125, np.float32))
    np.testing.assert_allclose(scales[:, 0], [0.5, 0.5, 0.125, 0.5, 0.125], rtol=1e-6)
    assert scales[2, 0] == 0.125  # to the bit, as of models without roots


def test_paths_that_run_a_layer_too_often_are_refused():
    with pytest.raises(InputError, match="runs a layer 257 times"):
        ROOTED.with_runs(np.full((1, 257), 2))
