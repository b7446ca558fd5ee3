"""Batches of prompts, and readings against a plain definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.prompts import NO_READ, PADDING, Prompts, readings


def test_plain_wraps_ids():
    prompts = Prompts.plain(np.array([[3, 1, 4], [1, 5, 9]]))
    assert prompts.ids.tolist() == [[3, 1, 4], [1, 5, 9]]
    assert prompts.positions.tolist() == [[0, 1, 2]] * 2
    assert prompts.branch.tolist() == [[0, 0, 0]] * 2
    assert prompts.read is None
    assert prompts.targets is None


def test_stack_pads_each_field_with_its_own_filler():
    long = Prompts(
        ids=[7, 8, 9, 9],
        positions=[0, 1, 2, 2],
        branch=[0, 0, 1, 2],
        read=[1],
        targets=[9],
    )
    short = Prompts(ids=[5], positions=[0], branch=[0], read=[0, 0], targets=[3, 4])
    batch = Prompts.stack([long, short])
    assert batch.ids.tolist() == [[7, 8, 9, 9], [5, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 2], [0, 0, 0, 0]]
    assert batch.branch.tolist() == [[0, 0, 1, 2], [0, PADDING, PADDING, PADDING]]
    assert batch.read.tolist() == [[1, NO_READ], [0, 0]]
    assert batch.targets.tolist() == [[9, 0], [3, 4]]
    for field in (batch.ids, batch.positions, batch.branch, batch.read, batch.targets):
        assert isinstance(field, np.ndarray)
        assert field.dtype == np.int32


def test_stack_without_reads():
    row = Prompts(ids=[5], positions=[0], branch=[0])
    batch = Prompts.stack([row, row])
    assert batch.ids.shape == (2, 1)
    assert batch.read is None
    assert batch.targets is None


def reading(logits, target):
    """One position, in float64 and plain loops."""
    logits = np.asarray(logits, np.float64)
    logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    rivals = [logprob for token, logprob in enumerate(logprobs) if token != target]
    return logprobs[target], int(logits.argmax()), max(rivals)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_readings_follow_their_definition(dtype, lead):
    generator = np.random.default_rng(0)
    logits = jnp.asarray(10 * generator.normal(size=(*lead, 4, 11)), dtype)
    targets = generator.integers(0, 11, (*lead, 4))
    targets[..., 0] = np.asarray(logits).argmax(-1)[..., 0]  # the target is also the best
    out = readings(logits, jnp.asarray(targets))
    assert out.logprob.dtype == out.rival.dtype == jnp.float32
    assert out.token.dtype == jnp.int32
    assert out.finite.shape == lead
    assert out.finite.all()
    for place in np.ndindex(targets.shape):
        logprob, token, rival = reading(logits[place], targets[place])
        np.testing.assert_allclose(out.logprob[place], logprob, atol=1e-5)
        np.testing.assert_allclose(out.rival[place], rival, atol=1e-5)
        assert out.token[place] == token


def test_ties_go_to_the_first_token():
    out = readings(jnp.array([[0.0, 2.0, 2.0]]), jnp.array([2]))
    assert out.token.tolist() == [1]
    assert out.logprob[0] == out.rival[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_any_logit_that_is_not_finite_flags_its_path_alone(value):
    logits = np.zeros((3, 2, 5), np.float32)
    logits[1, 0, 4] = value
    out = readings(jnp.asarray(logits), jnp.zeros((3, 2), jnp.int32))
    assert out.finite.tolist() == [True, False, True]


def test_large_logits_do_not_overflow():
    out = readings(jnp.array([[3e38, -3e38, 0.0]]), jnp.array([0]))
    assert out.logprob.tolist() == [0.0]
    assert np.isneginf(out.rival[0]) or out.rival[0] < -1e38
    assert bool(out.finite)
