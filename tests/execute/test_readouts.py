"""What is read in outputs: positions asked once, readings of logits, and the likeliest tokens."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.generation.logits_process import TopPLogitsWarper

from cola_jax.execute.inputs import no_readings
from cola_jax.execute.readouts import (
    Readouts,
    ReadPositions,
    best_two_at_once,
    best_two_by_parts,
    draw_token,
    nucleus,
    read_logits,
)
from cola_jax.path import STOP
from cola_jax.prompts import NO_READ, Prompts, readings

UNEMBEDDED = 4  # U


def answer(question, position, target):
    """A number for each thing that can be asked."""
    return 10_000 * question + 1000 * position + target


def read(positions, queries, question):
    """Answers queries about outputs of these questions, without a model."""
    rows, targets, identity_rows = (x.reshape(-1, *x.shape[2:]) for x in queries)
    output, column = np.divmod(rows, positions.read.shape[1])
    asked = question[output]
    position = positions.read[asked, column]
    divergence = answer(*np.divmod(identity_rows, positions.read.shape[1]), 0).astype(np.float32)
    logprob = answer(asked[..., None], position[..., None], targets).astype(np.float32)
    token, finite = answer(asked, position, -1), position % 7 != 3
    whole = Readouts(logprob, logprob + 1, token, finite, divergence)
    parts = len(queries.rows)
    return [Readouts(*part) for part in zip(*(np.split(x, parts) for x in whole), strict=True)]


@given(
    st.lists(st.lists(st.integers(NO_READ, 9), min_size=6, max_size=6), min_size=2, max_size=4),
    st.lists(st.integers(0, 1), min_size=1, max_size=5),
    st.sampled_from([1, 7]),
)
def test_read_positions_ask_once_and_collect_all(reads, question, times):
    """However often a position is read, each read gets the answer about its own target."""
    reads, question = np.tile(reads, (1, times)), np.array(question)
    targets = np.arange(reads.size).reshape(reads.shape)
    positions = ReadPositions(Prompts(reads, reads, reads, reads, targets), width=16)
    queries = positions.queries(question, unembedded=UNEMBEDDED)
    count = sum(len(set(reads[b]) - {NO_READ}) for b in question)
    assert queries.rows.shape == (-(-count // UNEMBEDDED), UNEMBEDDED)  # no more than is asked
    assert queries.targets.shape[:2] == queries.rows.shape
    assert times > 1 or queries.targets.shape[2] == 8
    assume(count)

    candidate = np.arange(len(question))
    out = no_readings(np.full((len(reads), len(question), 1), STOP), reads.shape[1], True)
    positions.collect(read(positions, queries, question), question, candidate, out)
    for b, c in zip(question, candidate, strict=True):
        for q, position in enumerate(reads[b]):
            got = out.logprob[b, c, q], out.rival[b, c, q], out.token[b, c, q]
            if position == NO_READ:
                assert got == (-np.inf, -np.inf, -1)
                assert out.divergence[b, c, q] == np.inf
            else:
                place = sorted(set(reads[b]) - {NO_READ}).index(position)
                assert out.divergence[b, c, q] == answer(b, place, 0)
                expected = answer(b, position, targets[b, q])
                assert got == (expected, expected + 1, answer(b, position, -1))
        assert out.finite[b, c] == all(p % 7 != 3 for p in reads[b] if p != NO_READ)


def test_read_positions_take_memory_in_proportion_to_the_reads():
    """A long prompt may be read at every token."""
    read = np.arange(4096)[None]
    prompts = Prompts(read, read, read, read, read)
    tracemalloc.start()
    positions = ReadPositions(prompts, width=4096)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert positions.count.tolist() == [4096]
    assert peak < 4096 * 1024


def test_read_logits_matches_readings():
    """For every target at every position, ties included."""
    values = jnp.asarray(np.random.default_rng(0).integers(-4, 4, (16, 11)), jnp.float32)
    targets = jnp.tile(jnp.arange(11), (16, 1))
    got = jax.jit(read_logits)(values, targets)
    for m in range(11):
        expected = jax.jit(readings)(values, targets[:, m])
        np.testing.assert_allclose(got.logprob[:, m], expected.logprob, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.rival[:, m], expected.rival, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got.token, expected.token)
    assert got.finite.all()


@pytest.mark.parametrize("find", [best_two_at_once, best_two_by_parts])
@pytest.mark.parametrize("vocabulary", [33, 96, 1536])
def test_best_two_of_many(find, vocabulary):
    """Random logits, of few values, so that equals stand in the same part and in others."""
    values = np.random.default_rng(0).integers(0, 40, (64, vocabulary)).astype(np.float32)
    values[0], values[1, 5], values[2, -1], values[3, 7] = 3.0, -np.inf, np.inf, np.nan
    top = find(jnp.asarray(values))
    assert top.finite.tolist() == [n not in (1, 2, 3) for n in range(64)]
    assert top.token.tolist()[4:] == values[4:].argmax(axis=1).tolist()
    assert top.token[0] == 0
    logprobs = np.sort(jax.nn.log_softmax(values[4:]), axis=1)
    np.testing.assert_allclose(top.first[4:], logprobs[:, -1], rtol=1e-5)
    np.testing.assert_allclose(top.second[4:], logprobs[:, -2], rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [33, 96])  # a logit in each part, and 32
def test_draw_token_draws_from_softmax(vocabulary):
    logits = 2 * jax.random.normal(jax.random.key(1), (vocabulary,))
    key, every = jnp.array([3, 4], jnp.uint32), jnp.arange(20_000)
    drawn = jax.jit(jax.vmap(draw_token, in_axes=(None, None, 0, None)))(logits, key, every, 0.7)
    counts = np.bincount(drawn, minlength=vocabulary)
    for temperature, fits in ((0.7, True), (0.8, False)):
        expected = np.asarray(jax.nn.softmax(logits / temperature), np.float64)
        expected *= len(every) / expected.sum()
        kept = expected > 5
        assert (scipy.stats.chisquare(*lumped(counts, expected, kept)).pvalue > 1e-3) == fits


@pytest.mark.parametrize("temperature", [0.5, 1.5])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999])
def test_nucleus_keeps_tokens_of_transformers(temperature, top_p):
    logits = 3 * np.random.default_rng(2).normal(size=(16, 1500)).astype(np.float32)
    logits[0, :-1], logits[1] = -1e9, np.sort(logits[1])  # one likely token; in order
    warmed = logits / np.float32(temperature)
    theirs = TopPLogitsWarper(top_p)(None, torch.from_numpy(warmed.copy())).numpy()
    ours = jax.jit(jax.vmap(nucleus, in_axes=(0, None)))(warmed, top_p)
    np.testing.assert_array_equal(ours, theirs)
    assert (np.isfinite(theirs).sum(axis=1) < 1500).all()


@pytest.mark.parametrize("top_p", [0.6, 1.0])
def test_draw_token_draws_from_nucleus(top_p):
    logits = 2 * np.random.default_rng(3).normal(size=96).astype(np.float32)
    key, every = jnp.array([3, 4], jnp.uint32), jnp.arange(20_000)
    draw = jax.jit(jax.vmap(draw_token, in_axes=(None, None, 0, None, None)))
    counts = np.bincount(draw(logits, key, every, 1.5, top_p), minlength=96)
    # numpy: the likeliest tokens up to the one with which they hold top_p
    share = scipy.special.softmax(logits.astype(np.float64) / 1.5)
    order = np.argsort(-share)
    kept = order[: np.searchsorted(np.cumsum(share[order]), top_p * (1 - 1e-9)) + 1]
    assert set(np.flatnonzero(counts)) <= set(kept)
    expected = np.zeros(96)
    expected[kept] = share[kept] / share[kept].sum() * len(every)
    assert scipy.stats.chisquare(*lumped(counts, expected, expected > 5)).pvalue > 1e-3


def lumped(counts, expected, kept):
    """Add up the classes that are too rare for the test, if any."""
    rare = ~kept & (expected > 0)
    rest = [rare] if rare.any() else []
    return [np.append(x[kept], [x[which].sum() for which in rest]) for x in (counts, expected)]
