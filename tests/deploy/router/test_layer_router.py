"""The layer router: focal loss, class weights, and decisions along the path decided so far."""

import itertools

import jax
import numpy as np
import pytest

from cola_jax.deploy.router import features
from cola_jax.deploy.router.layer_router import LayerRouter, class_weights, decide, focal_loss
from cola_jax.prompts import Prompts
from cola_jax.scoring.encode import pack


def test_class_weights_follow_effective_numbers():
    targets = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    weights = class_weights(targets, np.array([1.0, 2.0]))
    seven, one = ((1 - 0.999) / (1 - 0.999**n) for n in (11, 1))
    expected = 2 * np.array([one, seven]) / (one + seven)
    np.testing.assert_allclose(weights, [*expected, 0], rtol=1e-5)


def test_focal_loss_is_the_weighed_formula():
    rng = np.random.default_rng(0)
    logits, targets = np.float32(rng.normal(size=(4, 5, 3))), rng.integers(0, 3, (4, 5))
    weights = np.array([2.0, 0.5, 0.7], np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    p = np.take_along_axis(p, targets[:, :, None], axis=-1)[:, :, 0]
    expected = (weights[targets] * (1 - p) ** 2 * -np.log(p)).mean(axis=1)
    np.testing.assert_allclose(focal_loss(logits, targets, weights), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def setting(pair):
    """A model, prompts on its device and the parameters of an untrained router."""
    model = pair("llama-gqa").ours
    rows = [pack(ids, [])[0] for ids in ([5, 9, 2, 7, 11, 3, 8, 6, 4], [5, 9, 2, 1])]
    prompts = features.on_devices(model, features.prompt_alone(Prompts.stack(rows)), 32)
    windows = np.zeros((1, model.config.num_layers, 8, model.config.width), np.float32)
    return model, prompts, jax.jit(LayerRouter().init)(jax.random.key(0), windows)["params"]


def log_probabilities(params, model, prompt, counts):
    """Returns the log-probability [N] of each row of counts [N, L] for one prompt."""
    rows = jax.tree.map(lambda x: np.tile(np.asarray(x), (len(counts), 1)), prompt)
    windows = features.windows_along(model, rows, counts)
    logprob = jax.nn.log_softmax(LayerRouter().apply({"params": params}, windows))
    return np.take_along_axis(np.asarray(logprob), counts[:, :, None].astype(int), 2).sum((1, 2))


def test_decide_finds_the_most_likely_counts(setting):
    model, prompts, params = setting
    layers = model.config.num_layers
    every = np.array(list(itertools.product(range(3), repeat=layers))[1:], np.int8)
    counts, score = (np.asarray(x) for x in decide(params, model, prompts, len(every) + 1))
    for row in range(2):
        prompt = jax.tree.map(lambda x, row=row: x[row : row + 1], prompts)
        expected = log_probabilities(params, model, prompt, every)
        assert counts[row, 0].tolist() == every[expected.argmax()].tolist()
        real = np.isfinite(score[row])
        assert real.sum() == len(every)  # all but the path without a layer
        found = {tuple(c): s for c, s in zip(counts[row].tolist(), score[row], strict=True)}
        np.testing.assert_allclose([found[tuple(c)] for c in every.tolist()], expected, atol=1e-3)
        assert (np.diff(score[row][real]) <= 0).all()


def test_decide_does_not_depend_on_other_rows(setting):
    model, prompts, params = setting
    one = jax.tree.map(lambda x: x[1:], prompts)
    together, alone = (decide(params, model, p, 3) for p in (prompts, one))
    np.testing.assert_array_equal(together[0][1], alone[0][0])
    np.testing.assert_allclose(together[1][1], alone[1][0], atol=1e-4)
