"""Readouts: the read positions of a batch, and the programs that read logits there."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from cola_jax.execute.memory import ceil_power
from cola_jax.execute.plan import pad_rows
from cola_jax.kernels.attention import get
from cola_jax.model import unembed
from cola_jax.params import Model
from cola_jax.prompts import NO_READ, Prompts, Readings, kl_divergence

PART = 512  # logits of which a CPU takes the maximum in one go
LEAST_PART = 16


class Queries(NamedTuple):
    """Positions to read in the outputs of a chunk, U at a time, and the targets there."""

    rows: Int[np.ndarray, "N U"]  # of O W
    targets: Int[np.ndarray, "N U M"]
    identity_rows: Int[np.ndarray, "N U"]  # of B W: the same positions on the identity path


class Readouts(NamedTuple):
    """Readings of U positions, each for M targets."""

    logprob: Float[Array | np.ndarray, "U M"]
    rival: Float[Array | np.ndarray, "U M"]
    token: Int[Array | np.ndarray, " U"]
    finite: Bool[Array | np.ndarray, " U"]
    divergence: Float[Array | np.ndarray, " U"] | None = None


class ReadPositions:
    """Maps the reads [B, Q] of questions to their distinct positions [B, W].

    Prompts with packed options read the end of the prompt once for each option, which is a single
    position here, with up to M targets.
    """

    def __init__(self, prompts: Prompts, width: int):
        reads = np.asarray(prompts.read)
        targets = np.asarray(prompts.targets)
        self.valid = reads != NO_READ
        self.read = np.zeros((len(reads), width), np.int32)
        self.count = np.zeros(len(reads), np.int64)
        self.position = np.zeros(reads.shape, np.int64)  # of each read, among the distinct ones
        self.nth = np.zeros(reads.shape, np.int64)  # of its target, among those of the position
        for b, valid in enumerate(self.valid):
            positions, inverse, counts = np.unique(
                reads[b, valid], return_inverse=True, return_counts=True
            )
            self.count[b] = len(positions)
            self.read[b] = positions[0] if len(positions) else 0
            self.read[b, : len(positions)] = positions
            self.position[b, valid] = inverse
            by_position = np.flatnonzero(valid)[np.argsort(inverse, kind="stable")]
            begin = np.cumsum(counts) - counts
            self.nth[b, by_position] = np.arange(len(inverse)) - np.repeat(begin, counts)
        # at least eight, so that questions with more or fewer options compile the same
        most = ceil_power(max(int(self.nth.max(initial=0)) + 1, 8))
        self.targets = np.zeros((len(reads), width, most), np.int32)
        b, _ = places = np.nonzero(self.valid)
        self.targets[b, self.position[places], self.nth[places]] = targets[places]

    def queries(self, question: np.ndarray, unembedded: int) -> Queries:
        """Return the queries of outputs, of which i belongs to `question[i]`."""
        width = self.read.shape[1]
        counts = self.count[question]
        begin = np.cumsum(counts) - counts
        position = np.arange(counts.sum()) - np.repeat(begin, counts)
        output = np.repeat(np.arange(len(question)), counts)
        parts = -(-len(output) // unembedded)
        asked = question[output]
        columns = output * width + position, self.targets[asked, position], asked * width + position

        def cut(column: np.ndarray) -> np.ndarray:
            padded = pad_rows(column.astype(np.int32), parts * unembedded)
            return padded.reshape(parts, unembedded, *column.shape[1:])

        return Queries(*map(cut, columns))

    def collect(
        self, parts: Sequence[Readouts], question: np.ndarray, candidate: np.ndarray, out: Readings
    ) -> None:
        """Write the readouts of outputs of these questions to their candidates in `out`."""
        readouts = jax.tree.map(lambda *parts: np.concatenate(parts), *parts)
        counts = self.count[question]
        begin = np.cumsum(counts) - counts
        place = begin[:, None] + self.position[question]
        nth = self.nth[question]
        valid = self.valid[question]
        logprob, rival, token, finite, divergence = readouts
        out.logprob[question, candidate] = np.where(valid, logprob[place, nth], -np.inf)
        out.rival[question, candidate] = np.where(valid, rival[place, nth], -np.inf)
        out.token[question, candidate] = np.where(valid, token[place], -1)
        if out.divergence is not None:
            out.divergence[question, candidate] = np.where(valid, divergence[place], np.inf)
        path = np.repeat(np.arange(len(question)), counts)
        broken = np.bincount(path, weights=~finite[: len(path)], minlength=len(question))
        out.finite[question, candidate] = broken == 0


@jax.jit
def unembed_queries(
    model: Model,
    outputs: Shaped[Array, "O Q S"],
    rows: Int[Array, " U"],
    targets: Int[Array, "U M"],
    identity: tuple[Shaped[Array, "B Q S"], Int[Array, " U"]] | None = None,
) -> Readouts:
    """Unembed U positions and read their logits, each for all of its targets.

    With the outputs of the identity path and rows of them, the divergence from it is read as well.
    """
    logits = unembed_rows(model, outputs, rows)
    readouts = read_logits(logits, targets)
    if identity is None:
        return readouts
    return readouts._replace(divergence=kl_divergence(unembed_rows(model, *identity), logits))


def unembed_rows(
    model: Model, outputs: Shaped[Array, "O Q S"], rows: Int[Array, " U"]
) -> Float[Array, "U V"]:
    """Return the logits of U positions of all O Q."""
    flat = outputs.reshape(-1, outputs.shape[-1])
    return unembed(model, get(flat, rows)[:, None])[:, 0]


@functools.partial(jax.jit, donate_argnames="kept")
def keep_outputs(
    kept: Shaped[Array, "B Q S"], outputs: Shaped[Array, "O Q S"], question: Int[Array, " O"]
) -> Shaped[Array, "B Q S"]:
    """Write each output to the row of its question; those of no question are dropped."""
    return kept.at[question].set(outputs, mode="drop")


def read_logits(logits: Float[Array, "U V"], targets: Int[Array, "U M"]) -> Readouts:
    """Read logits as `prompts.readings` does, for several targets at a position."""
    top = best_two(logits)
    rival = jnp.where(targets == top.token[:, None], top.second[:, None], top.first[:, None])
    best = jnp.take_along_axis(logits, top.token[:, None], axis=-1)
    shift = best - top.first[:, None]
    return Readouts(
        logprob=jnp.take_along_axis(logits, targets, axis=-1) - shift,
        rival=rival,
        token=top.token,
        finite=top.finite,
    )


class Top(NamedTuple):
    """The most likely token, its log-probability, and that of the next best."""

    token: Int[Array | np.ndarray, " U"]
    first: Float[Array | np.ndarray, " U"]
    second: Float[Array | np.ndarray, " U"]
    finite: Bool[Array | np.ndarray, " U"]  # whether all logits are


def best_two(logits: Float[Array, "U V"]) -> Top:
    """Find the two best of logits; of equals the first."""
    on_cpu = best_two_at_once if part_size(logits) < LEAST_PART else best_two_by_parts
    return jax.lax.platform_dependent(logits, cpu=on_cpu, default=best_two_at_once)


def part_size(logits: Float[Array, "*U V"]) -> int:
    """Return the logits of a part: the largest power of two up to 512 that divides all."""
    return math.gcd(logits.shape[-1], PART)


def best_two_at_once(logits: Float[Array, "U V"]) -> Top:
    """Find the two best by reductions over all logits."""
    best = jnp.max(logits, axis=-1, keepdims=True)
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    others = jnp.where(jnp.arange(logits.shape[-1]) == token[:, None], -jnp.inf, logits)
    return top_of(logits, token, best, jnp.max(others, axis=-1), axes=-1)


def best_two_by_parts(logits: Float[Array, "U V"]) -> Top:
    """Find the two best of the part that has the best, and the best of all other parts.

    A CPU takes the maximum of every part as it reads them, but is slow where a comparison of all
    logits is reduced: 32 rows of 262,144 take 12 ms so, and 61 ms at once.
    """
    part = part_size(logits)
    parts = logits.reshape(len(logits), -1, part)
    most = jnp.max(parts, axis=-1)
    n = jnp.argmax(most, axis=-1)
    inside = jnp.take_along_axis(parts, n[:, None, None], axis=1)[:, 0]
    place = jnp.argmax(inside, axis=-1)
    others = jnp.where(jnp.arange(most.shape[-1]) == n[:, None], -jnp.inf, most)
    rest = jnp.where(jnp.arange(part) == place[:, None], -jnp.inf, inside)
    second = jnp.maximum(jnp.max(others, axis=-1), jnp.max(rest, axis=-1))
    best = jnp.max(most, axis=-1)[:, None, None]
    return top_of(parts, (n * part + place).astype(jnp.int32), best, second, axes=(-2, -1))


def top_of(
    logits: Float[Array, " U *V"],
    token: Int[Array, " U"],
    best: Float[Array, " U *ones"],
    second: Float[Array, " U"],
    *,
    axes: int | tuple[int, ...],
) -> Top:
    """Turn the best token and the two best logits into log-probabilities."""
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - best), axis=axes))
    lowest = jnp.min(logits, axis=axes)
    best = best.reshape(-1)
    return Top(
        token=token,
        first=-log_sum,
        second=second - best - log_sum,
        # infinity makes the sum NaN, as NaN itself does; a CPU's maximum may leave NaN out
        finite=jnp.isfinite(log_sum) & jnp.isfinite(lowest),
    )


@functools.partial(jax.jit, donate_argnames="tokens")
def greedy_sample(
    model: Model,
    states: Float[Array, "W 1 S"],
    tokens: Int[Array, " W"],
    slots: Int[Array, " U"],
) -> tuple[Int[Array, " W"], Top]:
    """Unembed U decode slots; each takes its likeliest token."""
    sample = best_two(unembed(model, states[slots])[:, 0])
    return tokens.at[slots].set(sample.token), sample


@functools.partial(jax.jit, donate_argnames="tokens")
def random_sample(
    model: Model,
    states: Float[Array, "W 1 S"],
    tokens: Int[Array, " W"],
    slots: Int[Array, " U"],
    keys: UInt32[Array, "U 2"],
    index: Int[Array, " U"],
    temperature: Float[Array, ""],
    top_p: Float[Array, ""] | None = None,
) -> tuple[Int[Array, " W"], Top]:
    """Unembed U decode slots; each draws a token, whose index in its text is `index`.

    The log-probabilities are those of the model, without the temperature; `second` is that of the
    likeliest other token.
    """
    logits = unembed(model, states[slots])[:, 0]
    draw = jax.vmap(draw_token, in_axes=(0, 0, 0, None, None))
    drawn = draw(logits, keys, index, temperature, top_p)
    read = read_logits(logits, drawn[:, None])
    top = Top(drawn, read.logprob[:, 0], read.rival[:, 0], read.finite)
    return tokens.at[slots].set(drawn), top


def draw_token(
    logits: Float[Array, " V"],
    key: UInt32[Array, " 2"],
    index: Int[Array, ""],
    temperature: Float[Array, ""],
    top_p: Float[Array, ""] | None = None,
) -> Int[Array, ""]:
    """Draw from softmax(logits / temperature), by a Threefry key and the token's index alone.

    With `top_p`, from the nucleus of that distribution.

    Gumbel noise chooses a part of the logits, and a token of it: noise for every logit would take a
    CPU longer than the rest of a step where a vocabulary is large.
    """
    logits = logits / temperature
    if top_p is not None:
        logits = nucleus(logits, top_p)
    parts = logits.reshape(-1, part_size(logits))
    count, size = parts.shape
    random_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), index)
    noise = jax.random.gumbel(random_key, (count + size,))
    n = jnp.argmax(jax.nn.logsumexp(parts, axis=1) + noise[:count])
    return (n * size + jnp.argmax(parts[n] + noise[count:])).astype(jnp.int32)


def nucleus(logits: Float[Array, " V"], top_p: Float[Array, ""]) -> Float[Array, " V"]:
    """Keep the fewest of the likeliest logits that hold `top_p` of the probability.

    The others become -inf. Bisects the least probability that is kept over the bits of its float,
    which are in its order: sorting 49,152 logits takes a CPU thirty times as long.
    """
    probability = jax.nn.softmax(logits)

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        kept = probability >= jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = jnp.sum(jnp.where(kept, probability, 0)) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    bounds = jnp.int32(0), jax.lax.bitcast_convert_type(jnp.float32(2), jnp.int32)
    least, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    kept = probability >= jax.lax.bitcast_convert_type(least, jnp.float32)
    return jnp.where(kept, logits, -jnp.inf)
