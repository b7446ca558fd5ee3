"""`DeviceSearches`: the searches of a batch that grow on the device, as the loop sees them.

The host replays the verdicts that are known, calls the program of `strategies.on_device`, and takes
and writes the verdicts of each call.
"""

import collections
import functools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cola_jax.errors import InputError, shown
from cola_jax.execute.turns import TurnEvaluator
from cola_jax.execute.worker import Worker
from cola_jax.path import LayerPath
from cola_jax.scoring.answer_key import AnswerKey
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.scorer import (
    Encoded,
    Scorer,
    most_options,
    prompts_of,
    score_readings,
)
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.on_device import CallLimits, Searches, Seen, State, run_waves
from cola_jax.strategies.outcome import ROOT, History, Leaf
from cola_jax.strategies.rules import Rules, Settings, TreeRules
from cola_jax.strategies.tree import Tables
from cola_jax.strategies.trees import Trees

CALL = 30.0  # seconds of a call, about
SEARCHES = 2  # of a question, whose leaves run at a time; more take several loops


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
        costs = self.settings.costs(self.num_layers)
        shorter = np.array([costs.layers(leaf.path) < self.num_layers for leaf in leaves])
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
        limits = CallLimits(
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
            # programs of whole layers are simpler
            sizes=device.run.sizes._replace(whole=not settings.preset.has_steps),
            platform=device.run.platform,
            most=self.trees.most,
        )
        began = time.perf_counter()
        before = int(device.worker.wait(self.state.turns))
        with jax.enable_x64(False):  # whatever a user's default is
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
