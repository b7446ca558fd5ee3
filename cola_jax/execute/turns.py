"""Turns: paths of a batch in one compiled loop, which runs the layer that most rows need next.

Rows are (question, path) pairs, each at a position of its own. A turn takes up to R rows that need
the same layer, so that a layer's weights are read once for all of them, and none is copied by path:
a mixture of experts with the layers as experts. Nothing is planned and no states are shared, so
that the whole loop, and what chooses the paths, is one program: see `strategies.on_device`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.execute.inputs import bucket, cut, distinct_reads, no_readings, token_counts
from cola_jax.execute.memory import (
    FEWEST_POSITIONS,
    LOGITS,
    Memory,
    floor_power,
    round_questions,
    row_tokens,
    tile_rows,
)
from cola_jax.execute.plan import pad_rows, take
from cola_jax.execute.readouts import ReadPositions, read_logits
from cola_jax.execute.worker import Worker
from cola_jax.kernels.attention import get, put, stored_as
from cola_jax.metrics import Cost
from cola_jax.model import View, embed, run_layer, unembed, view_of
from cola_jax.params import Model
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings
from cola_jax.steps import is_whole, layer_of

ALIVE = 4  # arrays as large as the states of a tile that a layer has at a time, about


class TurnSizes(NamedTuple):
    """The shapes that the loop depends on, beside the model's own and the batch's."""

    rows: int  # N, paths whose states are held at a time
    tile: int  # R, rows of a turn
    unembedded: int  # U, positions unembedded at a time
    whole: bool = False  # whether the paths have whole layers alone


class TurnBatch(struct.PyTreeNode):
    """The prompts of B questions on a device, embedded, and the W distinct positions read."""

    embedded: Float[Array, "B T S"]
    view: View  # [B, T]
    read: Int[Array, "B W"]
    used: Int[Array, " B"]  # of the positions read; the others are padding
    targets: Int[Array, "B W M"]
    position: Int[Array, "B Q"]  # of each read, among those positions
    nth: Int[Array, "B Q"]  # of its target, among those of the position
    valid: Bool[Array, "B Q"]


class ReadTables(NamedTuple):
    """The reads of a batch in NumPy: the fields of `TurnBatch` of the same names."""

    read: Int[np.ndarray, "B W"]
    used: Int[np.ndarray, " B"]
    targets: Int[np.ndarray, "B W M"]
    position: Int[np.ndarray, "B Q"]
    nth: Int[np.ndarray, "B Q"]
    valid: Bool[np.ndarray, "B Q"]


def padded_batch(prompts: Prompts, memory: Memory) -> tuple[Prompts, ReadTables]:
    """Pad prompts [B, T] with reads [B, Q] to few shapes, and list where they are read.

    The first question pads B.
    """
    count = len(prompts.ids)
    rows = np.concatenate([np.arange(count), np.zeros(round_questions(count) - count, int)])
    tokens = row_tokens(memory.limits, int(token_counts(prompts).max()))
    padded = cut(take(prompts, rows), tokens, bucket(np.asarray(prompts.read).shape[1]))
    reads = ReadPositions(padded, bucket(max(distinct_reads(prompts)), 4))
    return padded, ReadTables(
        read=reads.read,
        used=reads.count.astype(np.int32),
        targets=reads.targets,
        position=reads.position.astype(np.int32),
        nth=reads.nth.astype(np.int32),
        valid=reads.valid,
    )


def choose_turn_sizes(
    config: ModelConfig, prompts: Prompts, memory: Memory, paths: int
) -> TurnSizes:
    """Choose the sizes for a padded batch with so many paths at a time at most.

    Raises InputError where the memory is too small for a path, naming one that is enough.
    """
    count, tokens = prompts.ids.shape
    state = tokens * config.state_width * memory.itemsize
    logits = LOGITS * 4 * config.vocab_size
    wide = max(kind.num_heads * tokens * tokens * 8 for kind in config.kinds)  # scores and shares
    of_layer = ALIVE * state + wide
    held = count * (state + tokens * config.num_layers * config.layer_input * memory.itemsize)
    least = held + 2 * state + of_layer + FEWEST_POSITIONS * logits
    budget = memory.for_batch(least, f"search {count} questions of {tokens} tokens on the device")
    quarter = (budget - held) // 4
    tile = int(np.clip(quarter // of_layer, 1, tile_rows(memory.limits, tokens)))
    most = floor_power(max(quarter // logits, 1))
    unembedded = int(np.clip(most, FEWEST_POSITIONS, memory.limits.positions))
    free = budget - held - tile * of_layer - unembedded * logits
    # padding rows write to one more state
    rows = int(np.clip(free // state - 1, 1, paths))
    return TurnSizes(rows, min(tile, rows), unembedded)


def embed_batch(
    model: Model, prompts: Prompts, reads: ReadTables, dtype: DTypeLike | None
) -> TurnBatch:
    """Embed padded prompts; a function for programs."""
    return TurnBatch(
        embedded=embed(model, prompts, dtype),
        view=view_of(model, prompts, dtype),
        **jax.tree.map(jnp.asarray, reads._asdict()),
    )


def run_turns(
    model: Model,
    batch: TurnBatch,
    question: Int[Array, " N"],
    paths: Int[Array, "N P"],
    sizes: TurnSizes,
    platform: str,
) -> tuple[Shaped[Array, "n T S"], Int[Array, ""]]:
    """Run the paths of N rows to their ends; those of STOP alone are none.

    `platform` is that of the devices. Returns their states, of which the last is padding and one
    more than N, as a buffer of `get` stores them, and the number of turns.
    """
    config = model.config
    count, positions = paths.shape
    steps = config.with_runs(paths)
    # a column of STOP after the longest path
    steps = jnp.pad(steps, ((0, 1), (0, 1)), constant_values=STOP)
    padded = jnp.append(question, 0)
    stored = stored_as(batch.embedded.dtype, platform)
    embedded = batch.embedded[padded]
    if stored != embedded.dtype:
        embedded = jax.lax.bitcast_convert_type(embedded, stored)

    def needed(place: Int[Array, " n"]) -> Int[Array, " n"]:
        return jnp.take_along_axis(steps, place[:, None], axis=1)[:, 0]

    def more(carry: tuple[Array, Array, Array]) -> Array:
        return jnp.any(needed(carry[1]) != STOP)

    def turn(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        states, place, turns = carry
        step = next_step(config, needed(place))
        rows = jnp.flatnonzero(needed(place) == step, size=sizes.tile, fill_value=count)
        here = view_of_questions(batch.view, padded[rows])
        h = run_layer(model, step, get(states, rows), here, whole=sizes.whole)
        # of padding the last row alone advances, which has no step
        place = place.at[rows].add(1).at[count].set(positions)
        return put(states, h, rows), place, turns + 1

    start = embedded, jnp.zeros(count + 1, jnp.int32), jnp.int32(0)
    states, _, turns = jax.lax.while_loop(more, turn, start)
    return states, turns


def next_step(config: ModelConfig, needed: Int[Array, " n"]) -> Int[Array, ""]:
    """Return a step of the layer that most rows need next, given the step of each or STOP."""
    layers = jnp.where(needed == STOP, STOP, layer_of(needed))
    waiting = jnp.sum(layers[:, None] == jnp.arange(config.num_layers), axis=0)
    return needed[jnp.argmax(layers == jnp.argmax(waiting))]


def view_of_questions(view: View, question: Int[Array, " R"]) -> View:
    """Take the view of the questions of rows."""
    return View(
        positions=view.positions[question],
        branch=view.branch[question],
        cos=view.cos[:, question],
        sin=view.sin[:, question],
        inputs=None if view.inputs is None else view.inputs[:, question],
    )


def read_turns(
    model: Model,
    batch: TurnBatch,
    question: Int[Array, " N"],
    states: Shaped[Array, "n T S"],
    unembedded: int,
    used: Int[Array, ""],
) -> Readings:
    """Read the states of the first `used` of N rows, U positions at a time; Readings [N, Q].

    Those of the other rows mean nothing.
    """
    count, width = len(question), batch.read.shape[1]
    _, tokens, channels = states.shape
    parts = -(-count * width // unembedded)
    flat = states.reshape(-1, channels)

    def part(i: Array, out: tuple[Array, ...]) -> tuple[Array, ...]:
        place = jnp.minimum(i * unembedded + jnp.arange(unembedded), count * width - 1)
        row, w = place // width, place % width
        of = question[row]
        taken = get(flat, row * tokens + batch.read[of, w])
        # padding of positions repeats one that is read
        readouts = read_logits(unembed(model, taken[:, None])[:, 0], batch.targets[of, w])
        values = readouts.logprob, readouts.rival, readouts.token, readouts.finite
        return tuple(x.at[i].set(value) for x, value in zip(out, values, strict=True))

    shape = parts, unembedded
    targets = batch.targets.shape[2]
    empty = (
        jnp.zeros((*shape, targets), jnp.float32),
        jnp.zeros((*shape, targets), jnp.float32),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, bool),
    )
    read = jax.lax.fori_loop(0, -(-used * width // unembedded), part, empty)

    def by_row(x: Array) -> Array:
        rows = x.reshape(-1, *x.shape[2:])[: count * width]
        return rows.reshape(count, width, *x.shape[2:])

    logprob, rival, token, finite = map(by_row, read)
    n = jnp.arange(count)[:, None]
    position = batch.position[question]
    nth = batch.nth[question]
    valid = batch.valid[question]
    is_read = jnp.arange(width) < batch.used[question][:, None]
    return Readings(
        logprob=jnp.where(valid, logprob[n, position, nth], -jnp.inf),
        token=jnp.where(valid, token[n, position], -1),
        rival=jnp.where(valid, rival[n, position, nth], -jnp.inf),
        finite=jnp.all(finite | ~is_read, axis=1),
    )


def readings_in_turns(
    model: Model,
    batch: TurnBatch,
    question: Int[Array, " N"],
    paths: Int[Array, "N P"],
    *,
    sizes: TurnSizes,
    platform: str,
) -> tuple[Readings, Int[Array, ""]]:
    """Run the paths of N rows, of which those of STOP alone are the last, and read them.

    Returns Readings [N, Q] and the number of turns; a function for programs.
    """
    states, turns = run_turns(model, batch, question, paths, sizes, platform)
    used = jnp.sum(paths[:, 0] != STOP)
    return read_turns(model, batch, question, states, sizes.unembedded, used), turns


embed_program = jax.jit(embed_batch, static_argnames="dtype")
readings_program = jax.jit(readings_in_turns, static_argnames=("sizes", "platform"))


class TurnEvaluator:
    """Runs waves of paths of a batch of questions in turns, on a worker.

    It is to `run_paths` what a plain loop is to a plan: every path is run whole.
    """

    def __init__(self, worker: Worker, prompts: Prompts, paths: int):
        """Embed prompts with `read` and `targets` [B, Q]; `paths` run at a time at most."""
        self.worker = worker
        self.reads = np.asarray(prompts.read).shape[1]
        padded, reads = padded_batch(prompts, worker.memory)
        self.tokens = padded.ids.shape[1]
        self.sizes = choose_turn_sizes(worker.config, padded, worker.memory, paths)
        arrays = worker.put((padded, reads))
        embed = functools.partial(embed_program, worker.model, *arrays, dtype=worker.dtype)
        self.batch: TurnBatch = worker.dispatch(embed)

    @property
    def platform(self) -> str:
        """The platform of the worker's devices."""
        return self.worker.device.platform

    def __call__(self, paths: np.ndarray) -> Readings:
        """Run a wave [B, C, P]; return Readings [B, C, Q] as numpy."""
        out = no_readings(paths, self.reads)
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        size = self.sizes.rows
        for first in range(0, len(question), size):
            b, c = (x[first : first + size] for x in (question, candidate))
            rows = pad_rows(b.astype(np.int32), size)
            padded = np.full((size, paths.shape[2]), STOP, np.int32)
            padded[: len(b)] = paths[b, c]
            run = functools.partial(
                readings_program,
                self.worker.model,
                self.batch,
                *self.worker.put((rows, padded)),
                sizes=self.sizes._replace(whole=bool(is_whole(paths).all())),
                platform=self.platform,
            )
            read, turns = self.worker.wait(self.worker.dispatch(run))
            for name in ("logprob", "token", "rival"):
                getattr(out, name)[b, c] = getattr(read, name)[: len(b), : self.reads]
            out.finite[b, c] = read.finite[: len(b)]
            self.count(len(b), int((padded != STOP).sum()), int(turns))
        return out

    def count(self, evaluations: int, layers: int, turns: int) -> None:
        """Count paths of so many layers in all that ran in turns."""
        cost = Cost(
            useful=layers,
            unique=layers,
            tokens=layers * self.tokens,
            token_rows=turns * self.sizes.tile * self.tokens,
        )
        self.worker.metrics.add(evaluations=evaluations, cost=cost)
