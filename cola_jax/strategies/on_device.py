"""The whole search on the device: trees select, paths run, verdicts are backed up in one program.

A call of the program runs some waves, about half a minute, of all searches of a batch. Between two
calls the state stays on the device, and the host takes the verdicts, which it writes. Trees are
grown by the functions of `strategies.mcts` and verdicts made by those of `scoring.answer_key`, both
as on the host; paths run as `execute.turns` runs them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cola_jax.execute.turns import TurnBatch, TurnSizes, readings_in_turns
from cola_jax.params import Model
from cola_jax.path import STOP
from cola_jax.scoring.answer_key import AnswerKey, Mark
from cola_jax.scoring.verdicts import judge
from cola_jax.strategies.mcts import select, sum_over_steps, update
from cola_jax.strategies.tree import UNIT, Tables, Tree, Values


class Searches(NamedTuple):
    """The facts of S searches that a program reads."""

    question: Int[Values, " S"]  # of the batch
    target: Int[Values, " S"]  # the option to reach
    plain: Bool[Values, " S"]  # whether the identity path gives the target
    peers: Int[Values, "S G"]  # the searches of the same question, in order; S pads


class Seen(NamedTuple):
    """What the evaluations of the nodes of trees say of the options, whatever the target."""

    known: Bool[Values, "S M"]
    scores: Float[Values, "S M J"]
    answer: Int[Values, "S M"]
    outside: Float[Values, "S M"]
    finite: Bool[Values, "S M"]
    answer_logprobs: Float[Values, "S M J"]

    @classmethod
    def empty(cls, searches: int, nodes: int, options: int) -> "Seen":
        """Make columns of NumPy in which nothing is known."""
        shape = searches, nodes
        return cls(
            known=np.zeros(shape, bool),
            scores=np.full((*shape, options), np.nan, np.float32),
            answer=np.zeros(shape, np.int32),
            outside=np.zeros(shape, np.float32),
            finite=np.zeros(shape, bool),
            answer_logprobs=np.full((*shape, options), np.nan, np.float32),
        )

    def take(self, place: Any) -> "Seen":
        """Index the leading axes of every column."""
        return Seen(*(column[place] for column in self))


class State(NamedTuple):
    """What a program carries from wave to wave, and from call to call."""

    trees: Tree  # of S searches
    pending: Int[Values, " S"]  # nodes added last, whose verdicts are not backed up; 0 at the end
    improved: Bool[Values, " S"]  # as `History.improved`
    seen: Seen
    turns: Int[Values, ""]  # of all waves so far


class CallLimits(NamedTuple):
    """The bounds of a call; traced, so that others compile nothing."""

    waves: Any  # of this call
    leaves: Any  # of a wave
    nodes: Any  # of a tree
    layers: Any  # of the model
    early_stop: Any


class Pending(NamedTuple):
    """The nodes of a wave in all trees."""

    nodes: Int[Array, "S C"]
    valid: Bool[Array, "S C"]


@functools.partial(
    jax.jit, static_argnames=("mark", "sizes", "platform", "most"), donate_argnames="state"
)
def run_waves(
    model: Model,
    batch: TurnBatch,
    key: AnswerKey,
    searches: Searches,
    tables: Tables,
    state: State,
    limits: CallLimits,
    *,
    mark: Mark,
    sizes: TurnSizes,
    platform: str,
    most: int,
) -> State:
    """Run the pending nodes of all searches, back them up, and select others; some waves.

    Args:
      key: of the B questions of the batch.
      most: C, leaves of a wave.
    """
    evaluate = functools.partial(
        evaluated, model, batch, key, searches, mark=mark, sizes=sizes, platform=platform
    )

    def goes_on(carry: tuple[Array, State]) -> Array:
        return (carry[0] < limits.waves) & jnp.any(carry[1].pending > 0)

    def wave(carry: tuple[Array, State]) -> tuple[Array, State]:
        n, state = carry
        pending = pending_of(state, most)
        state = evaluate(state, pending)
        return n + 1, grown(searches, tables, state, pending, limits, most)

    return jax.lax.while_loop(goes_on, wave, (jnp.int32(0), state))[1]


def pending_of(state: State, most: int) -> Pending:
    """Return the pending nodes of all trees, at most C each."""
    nodes = state.trees.parent.shape[1]
    offset = jnp.arange(most)
    first = state.trees.size - state.pending
    return Pending(jnp.minimum(first[:, None] + offset, nodes - 1), offset < state.pending[:, None])


def evaluated(
    model: Model,
    batch: TurnBatch,
    key: AnswerKey,
    searches: Searches,
    state: State,
    pending: Pending,
    *,
    mark: Mark,
    sizes: TurnSizes,
    platform: str,
) -> State:
    """Evaluate the pending nodes whose paths no search of their question knows; copy the others."""
    trees = state.trees
    count, most = pending.nodes.shape
    search = jnp.arange(count)[:, None]
    is_known, peer, node = find_known(trees, searches, state, pending)
    is_new = pending.valid & ~state.seen.known[search, pending.nodes]

    def left(carry: tuple[Array, Seen, Array]) -> Array:
        return jnp.any(carry[0])

    def run(carry: tuple[Array, Seen, Array]) -> tuple[Array, Seen, Array]:
        waiting, seen, turns = carry
        flat = jnp.flatnonzero(waiting, size=sizes.rows, fill_value=count * most)
        there = flat < count * most
        s = jnp.minimum(flat // most, count - 1)
        n = pending.nodes[s, flat % most]
        paths = jnp.where(there[:, None], trees.paths[s, n], STOP)
        question = searches.question[s]
        readings, more = readings_in_turns(
            model, batch, question, paths, sizes=sizes, platform=platform
        )
        keys = jax.tree.map(lambda column: column[question], key)
        marked = jax.vmap(mark)(readings, keys)
        values = Seen(
            known=there,
            scores=marked.scores,
            answer=marked.answer,
            outside=marked.outside,
            finite=readings.finite,
            answer_logprobs=marked.answer_logprobs,
        )
        # those that are not there are dropped
        seen = write(seen, (jnp.where(there, s, count), n), values)
        return waiting.at[flat].set(False, mode="drop"), seen, turns + more

    waiting = (is_new & ~is_known).reshape(-1)
    _, seen, turns = jax.lax.while_loop(left, run, (waiting, state.seen, jnp.asarray(state.turns)))
    place = jnp.where(is_new & is_known, search, count), pending.nodes
    seen = write(seen, place, seen.take((peer, node)))
    return state._replace(seen=seen, turns=turns)


def write(seen: Seen, place: Any, values: Seen) -> Seen:
    """Write values to places of the leading axes, but for those outside."""
    return Seen(
        *(jnp.asarray(x).at[place].set(y, mode="drop") for x, y in zip(seen, values, strict=True))
    )


def find_known(
    trees: Tree, searches: Searches, state: State, pending: Pending
) -> tuple[Bool[Array, "S C"], Int[Array, "S C"], Int[Array, "S C"]]:
    """Find the paths of pending nodes in the other trees of their questions.

    Those of earlier waves come before those of this one, which only the first search evaluates.
    Returns whether a path is there, and the search and the node that have it. Hashes are compared,
    and the first path whose hash is the same whole.
    """
    count, nodes = trees.parent.shape
    own = jnp.arange(count)[:, None]
    peers = jnp.minimum(searches.peers, count - 1)
    other = (searches.peers < count) & (peers != own)
    m = jnp.arange(nodes)
    size = trees.size[peers][..., None]  # [S, G, 1]
    first = size - state.pending[peers][..., None]
    earlier = other[..., None] & (m < first)
    now = (other & (peers < own))[..., None] & (m >= first) & (m < size)
    hashes = trees.hashes[own, pending.nodes]
    theirs = trees.hashes[peers].reshape(count, 1, -1, 2)  # [S, 1, G M, 2]
    same = jnp.all(hashes[:, :, None] == theirs, axis=-1)
    of_earlier = same & earlier.reshape(count, 1, -1)
    of_now = same & now.reshape(count, 1, -1)
    has_earlier = jnp.any(of_earlier, axis=-1)
    place = jnp.where(has_earlier, jnp.argmax(of_earlier, axis=-1), jnp.argmax(of_now, axis=-1))
    peer = jnp.take_along_axis(peers, place // nodes, axis=1)
    node = place % nodes
    whole = jnp.all(trees.paths[peer, node] == trees.paths[own, pending.nodes], axis=-1)
    found = has_earlier | jnp.any(of_now, axis=-1)
    return pending.valid & found & whole, peer, node


def grown(
    searches: Searches,
    tables: Tables,
    state: State,
    pending: Pending,
    limits: CallLimits,
    most: int,
) -> State:
    """Back up the verdicts of pending nodes, and select the next ones of searches that go on."""
    trees = state.trees
    search = jnp.arange(len(pending.nodes))[:, None]
    seen = state.seen.take((search, pending.nodes))
    target = jnp.broadcast_to(searches.target[:, None], seen.answer.shape)
    verdict, margin = judge(jnp, seen.scores, target, seen.finite, seen.answer, seen.outside)
    trees = jax.vmap(update, in_axes=(0, None, 0, 0, 0))(
        trees, tables, verdict, margin, jnp.asarray(state.pending)
    )
    of_path = functools.partial(sum_over_steps, tables.lengths)
    paths = trees.paths[search, pending.nodes]
    lengths = jax.vmap(jax.vmap(of_path))(paths, trees.length[search, pending.nodes])
    shorter = lengths < UNIT * limits.layers
    better = pending.valid & verdict & (shorter | ~searches.plain[:, None])
    improved = state.improved | jnp.any(better, axis=1)
    goes_on = (state.pending > 0) & ~(limits.early_stop & improved)
    counts = jnp.where(goes_on, jnp.minimum(limits.leaves, limits.nodes - trees.size), 0)

    def add(tree: Tree, count: Array) -> tuple[Tree, Array]:
        tree, wave = select(tree, tables, count, most=most)
        return tree, wave.size

    trees, added = jax.vmap(add)(trees, counts)
    return state._replace(trees=trees, pending=added, improved=improved)
