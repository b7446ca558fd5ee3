"""The gated delta rule: chunks against one token after the other, in float64."""

import jax
import numpy as np
import pytest

from cola_jax.delta import Predecessors, Tokens, convolve, gated_delta_rule, solve
from cola_jax.prompts import PADDING, PROMPT

K, N, H, U, W = 1, 2, 4, 3, 3  # key and value heads, their widths, and taps
BRANCHES = [  # lengths of the prompt and of continuations: forks in, at and after ends of chunks
    (70, (3, 80, 2)),
    (63, (1, 4)),
    (64, (30, 40, 10)),
    (5, ()),
]


def packed():
    """Rows of tokens [R, T] by their branch."""
    rows = [np.repeat(range(1 + len(more)), [prompt, *more]) for prompt, more in BRANCHES]
    length = max(map(len, rows))
    return np.stack([np.pad(x, (0, length - len(x)), constant_values=PADDING) for x in rows])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def one_by_one(tokens, branch, state):
    """Run a row token by token; return what each reads, and the state after the prompt."""
    q, k, v, decay = (np.asarray(x, np.float64) for x in tokens[:4])
    adds, write = tokens[4] is None, np.ones_like(decay) if tokens[4] is None else tokens[4]
    now, ended, read = state.astype(np.float64), None, np.zeros(v.shape)
    for t, number in enumerate(branch.tolist()):
        if number == PADDING:
            break
        if number > PROMPT and number != branch[t - 1]:
            ended = now if ended is None else ended
            now = ended
        now = now * np.exp(decay[t])[:, None, None]
        for n in range(N):
            missing = v[t, n] - (0 if adds else now[n].T @ k[t, 0])
            now[n] += write[t, n] * np.outer(k[t, 0], missing)
            read[t, n] = now[n].T @ q[t, 0]
    return read, now if ended is None else ended


@pytest.mark.parametrize("adds", [False, True])
def test_chunks_match_one_token_after_the_other(adds):
    branch = packed()
    rows, length = branch.shape
    k = draw(rows, length, K, H, seed=1)
    k[:, 20:40] = k[:, 20:21]  # equal keys, whose tokens overwrite each other
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    write = 1 / (1 + np.exp(-draw(rows, length, N, seed=3)))
    decay = -0.1 * np.abs(draw(rows, length, N, seed=4))
    q, v = draw(rows, length, K, H), draw(rows, length, N, U, seed=2)
    tokens = Tokens(q, k, v, decay, None if adds else write)
    state = draw(rows, N, H, U, seed=5)
    read, ended = jax.jit(gated_delta_rule)(tokens, branch, state)
    for row in range(rows):
        alone = [None if x is None else x[row] for x in tokens]
        wanted = one_by_one(alone, branch[row], state[row])
        real = branch[row] != PADDING
        np.testing.assert_allclose(read[row][real], wanted[0][real], atol=2e-5)
        np.testing.assert_allclose(ended[row], wanted[1], atol=2e-5)


def test_convolutions_continue_prompts_and_earlier_tokens():
    branch = packed()
    rows, length = branch.shape
    x, taps, before = draw(rows, length, N, H), draw(N, H, W, seed=1), draw(rows, N, W - 1, H)
    places = Predecessors.of(branch, W)
    bias = draw(N, H, seed=2)
    out, kept = convolve(x, taps, bias, before, places)
    for row, (prompt, more) in enumerate(BRANCHES):
        start = prompt
        for size in (0, *more):
            alone = np.concatenate([before[row].transpose(1, 0, 2), x[row, :prompt]])
            alone = np.concatenate([alone, x[row, start : start + size]])
            sums = sum(alone[i : len(alone) - W + 1 + i] * taps[..., i] for i in range(W)) + bias
            silu = sums / (1 + np.exp(-sums))
            np.testing.assert_allclose(out[row, :prompt], silu[:prompt], atol=1e-5)
            np.testing.assert_allclose(out[row, start : start + size], silu[prompt:], atol=1e-5)
            start += size
        end = np.concatenate([before[row].transpose(1, 0, 2), x[row, :prompt]])[-(W - 1) :]
        np.testing.assert_array_equal(np.asarray(kept[row]).transpose(1, 0, 2), end)


@pytest.mark.parametrize("size", [1, 5, 8, 61])
def test_solve_is_exact_where_all_keys_are_equal(size):
    system, wanted = np.tril(np.ones((size, size), np.float32)), draw(size, 2)
    exact = np.linalg.solve(system.astype(np.float64), wanted)
    np.testing.assert_allclose(solve(system, wanted), exact, atol=1e-5)
