"""Turns: paths in a compiled loop are what `run_path` makes of them."""

import jax.numpy as jnp
import pytest

from cola_jax.execute.memory import Memory
from cola_jax.execute.turns import TurnEvaluator, choose_turn_sizes, next_step, padded_batch
from cola_jax.execute.worker import make_workers
from cola_jax.metrics import Metrics
from cola_jax.path import STOP
from cola_jax.prompts import Prompts
from tests.execute import batches
from tests.execute.one_by_one import run_reference

QUESTIONS, EACH, POSITIONS, TOKENS = 3, 4, 12, 32
MEMORY = Memory(2**30, sharing=1, itemsize=4, backend="cpu")


@pytest.fixture(scope="module")
def prompts():
    return Prompts.stack([batches.packed(seed) for seed in range(QUESTIONS)])


def paths_of(config):
    """Draw paths [B, C, P], of which one is not there."""
    drawn = batches.paths_of(QUESTIONS, EACH, 0)
    paths = batches.pad(drawn, POSITIONS)
    paths[2] = batches.of_steps(paths[2], seed=0)
    paths = batches.runnable(config, paths)
    paths[1, 2] = STOP
    return paths


@pytest.mark.parametrize(
    ("variant", "tile"),
    [
        ("qwen2-window", 5),
        ("gemma3", 1),  # two rope tables; a row at a time
        ("qwen3.5", 12),  # two kinds of layers
        ("gemma4-e", 3),  # keys that are shared, embeddings of each layer, roots of scales
        pytest.param("qwen2-moe-window", 4, marks=pytest.mark.slow),
    ],
)
def test_paths_in_turns_are_those_of_run_path(pair, prompts, variant, tile):
    model = pair(variant).ours
    paths = paths_of(model.config)
    metrics = Metrics()
    (worker,) = make_workers(model, tile_tokens=tile * TOKENS, metrics=metrics)
    evaluate = TurnEvaluator(worker, prompts, 5)  # so there are three parts
    assert evaluate.sizes[:2] == (5, min(tile, 5))
    batches.assert_agree(evaluate(paths), run_reference(model, prompts, paths))
    layers = int((paths != STOP).sum())
    assert metrics.cost.useful == layers
    assert layers <= metrics.cost.token_rows / TOKENS <= layers * min(tile, 5)


def test_next_step_is_of_the_layer_that_most_rows_need(model):
    layers = jnp.array([2, 1, STOP, 1, 3, STOP, STOP, STOP])
    assert int(next_step(model.config, layers)) == 1


def test_sizes_fit_the_budget_and_a_small_one_is_refused(model, prompts):
    padded, _ = padded_batch(prompts, MEMORY)
    sizes = choose_turn_sizes(model.config, padded, MEMORY, 40)
    assert sizes.rows == 40
    assert 1 <= sizes.tile <= 40
    small = MEMORY._replace(budget=1000)
    with pytest.raises(ValueError, match="search 8 questions of 32 tokens on the device: give at"):
        choose_turn_sizes(model.config, padded, small, 40)
