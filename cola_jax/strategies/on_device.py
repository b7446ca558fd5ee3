"""The whole search on the device: trees select, paths run, verdicts are backed up in one program.

A call of the program runs some waves, about half a minute, of all searches of a batch. Between two
calls the state stays on the device, and the host takes the verdicts, which it writes. Trees are
grown by the functions of `strategies.mcts` and verdicts made by those of `scoring.answer_key`, both
as on the host; paths run as `execute.turns` runs them.
"""

import collections
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cola_jax.errors import InputError, shown
from cola_jax.execute.turns import TurnBatch, TurnEvaluator, TurnSizes, readings_in_turns
from cola_jax.execute.worker import Worker
from cola_jax.params import Model
from cola_jax.path import STOP, LayerPath
from cola_jax.scoring.answer_key import AnswerKey, Mark
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.scorer import (
    Encoded,
    Scorer,
    most_options,
    prompts_of,
    score_readings,
)
from cola_jax.scoring.verdicts import Verdicts, judge
from cola_jax.strategies.mcts import select, update
from cola_jax.strategies.outcome import ROOT, History, Leaf
from cola_jax.strategies.rules import Rules, Settings, TreeRules
from cola_jax.strategies.tree import STOP as NO_LAYER
from cola_jax.strategies.tree import Tables, Tree, Values
from cola_jax.strategies.trees import Trees

CALL = 30.0  # seconds of a call, about
SEARCHES = 2  # of a question, whose leaves run at a time; more take several loops


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


class Limits(NamedTuple):
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
    limits: Limits,
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
        paths = trees.paths[s, n].astype(jnp.int32)
        paths = jnp.where(there[:, None] & (paths != NO_LAYER), paths, STOP)
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
    limits: Limits,
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
    shorter = trees.length[search, pending.nodes] < limits.layers
    better = pending.valid & verdict & (shorter | ~searches.plain[:, None])
    improved = state.improved | jnp.any(better, axis=1)
    goes_on = (state.pending > 0) & ~(limits.early_stop & improved)
    counts = jnp.where(goes_on, jnp.minimum(limits.leaves, limits.nodes - trees.size), 0)

    def add(tree: Tree, count: Array) -> tuple[Tree, Array]:
        tree, wave = select(tree, tables, count, most=most)
        return tree, wave.size

    trees, added = jax.vmap(add)(trees, counts)
    return state._replace(trees=trees, pending=added, improved=improved)


class DeviceBatch:
    """A batch of questions on a worker, whose devices run their paths and judge them."""

    def __init__(self, worker: Worker, scorer: Scorer, encoded: Sequence[Encoded], leaves: int):
        """Copy the prompts and the answer keys of questions to the devices of a worker.

        `leaves` are those of a question and wave.
        """
        self.worker = worker
        self.scorer = scorer
        self.encoded = encoded
        self.run = TurnEvaluator(worker, prompts_of(encoded), SEARCHES * leaves * len(encoded))
        self.options = most_options(encoded)
        keys = [scorer.answer_key(each) for each in encoded]
        keys += [keys[0]] * (self.run.batch.read.shape[0] - len(keys))
        ends = max(len(key.ends) for key in keys)
        reads = self.run.batch.valid.shape[1]
        self.key: AnswerKey = worker.put(AnswerKey.stack(keys, reads, self.options, ends))

    def __call__(self, paths: np.ndarray) -> Verdicts:
        """Evaluate paths [B, C, P], as an evaluator of the scorer does."""
        return score_readings(self.scorer, self.encoded, self.run(paths), paths)

    def start(
        self, evaluations: Evaluations, settings: Settings, num_layers: int
    ) -> Callable[[Sequence[History]], "DeviceSearches"]:
        """Return a function that starts the searches of the batch, for `search_batch`."""

        def start(histories: Sequence[History]) -> DeviceSearches:
            return DeviceSearches(self, evaluations, settings, num_layers, histories)

        return start


class DeviceSearches:
    """S searches that grow on the device, as `Trees` grow on the host."""

    def __init__(
        self,
        device: DeviceBatch,
        evaluations: Evaluations,
        settings: Settings,
        num_layers: int,
        histories: Sequence[History],
    ):
        """Plant a tree for each history, and replay the verdicts that are known."""
        self.device = device
        self.evaluations = evaluations
        self.settings = settings
        self.num_layers = num_layers
        self.histories = histories
        ids = [history.question.id for history in histories]
        roots = [history.verdicts[0] for history in histories]
        self.trees = Trees(settings, num_layers, ids, roots)
        while self.trees.nodes < settings.simulations + 1:
            self.trees.enlarge()
        # waves of each search that have verdicts, and are not proposed yet
        self.ready: list[collections.deque[list[Leaf]]] = [collections.deque() for _ in ids]
        self.pending = np.zeros(self.trees.rows, np.int32)
        self.improved = np.zeros(self.trees.rows, bool)
        nodes = self.trees.trees.parent.shape[1]
        self.seen = Seen.empty(self.trees.rows, nodes, evaluations.options)
        self.replay()
        self.taken = [len(paths) for paths in self.trees.paths]  # nodes that are no news
        for s in range(len(ids)):
            self.taken[s] -= int(self.pending[s])
        self.waves = 1  # of a call
        self.calls = 0
        self.state: State = self.put_state()
        self.searches: Searches = device.worker.put(self.facts())
        self.tables: Tables = device.worker.put(jax.device_get(self.trees.tables))

    def facts(self) -> Searches:
        """Return the facts of the searches, as NumPy; those that pad the rows never run."""
        rows = self.trees.rows
        question = np.zeros(rows, np.int32)
        target = np.zeros(rows, np.int32)
        plain = np.zeros(rows, bool)
        of_question: dict[int, list[int]] = {}
        for s, history in enumerate(self.histories):
            question[s] = history.index
            target[s] = history.target
            plain[s] = history.verdicts[0].verdict[ROOT]
            of_question.setdefault(history.index, []).append(s)
        # as many as any batch with these options may have
        peers = np.full((rows, max(self.device.options, 1)), rows, np.int32)
        for s, history in enumerate(self.histories):
            every = of_question[history.index]
            peers[s, : len(every)] = every
        return Searches(question, target, plain, peers)

    def put_state(self) -> State:
        """Copy the trees and what is known of their nodes to the device."""
        trees = jax.device_get(self.trees.trees)
        turns = np.array(0, np.int32)
        state = State(trees, self.pending, self.improved, self.seen, turns)
        return self.device.worker.put(state)

    def replay(self) -> None:
        """Grow the trees on the host while all verdicts of a wave of theirs are known."""
        going = [True] * len(self.histories)
        while any(going):
            verdicts: list[Verdicts | None] = [None] * len(going)
            for s, leaves in enumerate(self.trees.propose(going)):
                if going[s] and leaves and self.is_known(s, leaves):
                    verdicts[s] = self.known_wave(s, leaves)
                    self.ready[s].append(leaves)
                    going[s] = not (self.settings.early_stop and self.improved[s])
                else:
                    self.pending[s] += len(leaves)
                    going[s] = False
            held = [verdict is None for verdict in verdicts]
            held += [True] * (self.trees.rows - len(held))
            self.trees.counts = np.where(held, 0, self.trees.counts)
            self.trees.take(verdicts)

    def is_known(self, s: int, leaves: Sequence[Leaf]) -> bool:
        """Tell whether all leaves of a search are known; take those that are."""
        b = self.histories[s].index
        nodes = range(len(self.trees.paths[s]) - len(leaves), len(self.trees.paths[s]))
        found = [self.evaluations.find(b, leaf.path) for leaf in leaves]
        for node, verdict in zip(nodes, found, strict=True):
            if verdict is not None:
                self.remember(s, node, verdict)
        return all(verdict is not None for verdict in found)

    def remember(self, s: int, node: int, verdict: Verdicts) -> None:
        """Keep the verdict [1] of a node for the device."""
        seen = self.seen
        seen.known[s, node] = True
        options = min(seen.scores.shape[-1], verdict.scores.shape[-1])
        seen.scores[s, node, :options] = verdict.scores[0, :options]
        seen.answer[s, node] = verdict.answer[0]
        seen.outside[s, node] = verdict.outside[0]
        seen.finite[s, node] = verdict.finite[0]
        seen.answer_logprobs[s, node, :options] = verdict.answer_logprobs[0, :options]

    def known_wave(self, s: int, leaves: Sequence[Leaf]) -> Verdicts:
        """Return the verdicts [C] of the leaves of a search, all of them known, for its target."""
        history = self.histories[s]
        size = len(self.trees.paths[s])
        verdicts = self.verdicts_of(
            self.seen.take((s, slice(size - len(leaves), size))), history.target
        )
        shorter = np.array([len(leaf.path) < self.num_layers for leaf in leaves])
        plain = history.verdicts[0].verdict[ROOT]
        self.improved[s] |= bool((verdicts.verdict & (shorter | ~plain)).any())
        return verdicts

    def verdicts_of(self, seen: Seen, target: int) -> Verdicts:
        """Make verdicts [C] of what nodes [C] say, for a target."""
        return Verdicts.of_scores(
            np.asarray(seen.scores),
            target,
            np.asarray(seen.finite),
            answer=np.asarray(seen.answer),
            outside=np.asarray(seen.outside),
            log_likelihoods=self.device.scorer.log_likelihoods,
            answer_logprobs=np.asarray(seen.answer_logprobs),
        )

    def propose(self, wanted: Sequence[bool]) -> list[list[Leaf]]:
        """Return the leaves of the next wave of the searches that are wanted; none at their ends.

        Their verdicts are known to the evaluations. Runs the program where a search has none left.
        """
        while any(
            is_wanted and not ready and pending
            for is_wanted, ready, pending in zip(wanted, self.ready, self.pending, strict=False)
        ):
            self.call()
        return [
            ready.popleft() if is_wanted and ready else []
            for is_wanted, ready in zip(wanted, self.ready, strict=True)
        ]

    def take(self, verdicts: Sequence[Verdicts | None]) -> None:
        """No-op: the device has backed them up."""

    def call(self) -> None:
        """Run some waves on the device, and take their verdicts."""
        device = self.device
        settings = self.settings
        limits = Limits(
            waves=np.int32(self.waves),
            leaves=np.int32(settings.leaves),
            nodes=np.int32(1 + settings.simulations),
            layers=np.int32(self.num_layers),
            early_stop=np.bool_(settings.early_stop),
        )
        mark = device.scorer.mark
        assert mark is not None
        program = functools.partial(
            run_waves,
            device.worker.model,
            device.run.batch,
            device.key,
            self.searches,
            self.tables,
            self.state,
            device.worker.put(limits),
            mark=mark,
            sizes=device.run.sizes,
            platform=device.run.platform,
            most=self.trees.most,
        )
        began = time.perf_counter()
        before = int(device.worker.wait(self.state.turns))
        self.state = device.worker.dispatch(program)
        state: State = device.worker.wait(self.state._replace(improved=None))
        seconds = time.perf_counter() - began
        self.calls += 1
        if self.calls > 1:  # the first may have compiled the program
            self.waves = int(np.clip(self.waves * CALL / max(seconds, 1e-3), 1, 4 * self.waves))
        self.pending = np.asarray(state.pending)
        self.collect(state, int(state.turns) - before)

    def collect(self, state: State, turns: int) -> None:
        """Take the nodes whose verdicts are new: their leaves, and the evaluations of questions."""
        evaluations = self.evaluations
        new: list[dict[LayerPath, tuple[int, int]]] = [{} for _ in evaluations.questions]
        trees = state.trees
        for s, history in enumerate(self.histories):
            known = self.trees.paths[s]
            del known[self.taken[s] :]  # pending ones come again
            for node in range(self.taken[s], int(trees.size[s] - state.pending[s])):
                path = tuple(trees.paths[s, node, : trees.length[s, node]].tolist())
                parent = known[trees.parent[s, node]]
                leaf = Leaf(path, parent, trees.edit[s, node].tolist())
                known.append(path)
                if (node - 1) % self.settings.leaves == 0:
                    self.ready[s].append([])
                self.ready[s][-1].append(leaf)
                if evaluations.find(history.index, path) is None:
                    new[history.index].setdefault(path, (s, node))
            self.taken[s] = len(known)
        paths = [list(row) for row in new]
        wave = Verdicts.empty((len(paths), max(map(len, paths))), evaluations.options)
        for b, row in enumerate(new):
            if row:
                at = tuple(np.transpose([*row.values()]))
                verdicts = self.verdicts_of(state.seen.take(at), evaluations.questions[b].answer)
                wave.put((b, slice(len(row))), verdicts)
        evaluations.prefetch(paths, wave)
        layers = sum(len(path) for row in paths for path in row)
        self.device.run.count(sum(map(len, paths)), layers, turns)


def check_on_device(scorer: Scorer, rules: Rules) -> None:
    """Raise InputError where a search cannot run on the device as a whole."""
    if not isinstance(rules, TreeRules):
        raise InputError(
            f"a search on the device grows trees, which the strategy {rules.name!r} does not: "
            "leave out on_device, or use a preset such as `best`."
        )
    if scorer.mark is None:
        raise InputError(
            f"the scorer {shown(scorer.name)} makes its verdicts on the host, so a search with it "
            "does not run on the device: leave out on_device, or use `options`, `letter` or "
            "`exact`."
        )
