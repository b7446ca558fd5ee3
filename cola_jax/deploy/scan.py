"""Scans: the paths that skip or repeat each block of layers, and estimates of their effects.

The best of hundreds of blocks looks better than it is, by luck alone. So p-values and intervals are
corrected for the number of blocks, and a block chosen on half of the questions and prompts is
measured on the others. A block helps in some prompts and harms in others: of few prompts, an effect
is that in these alone.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cola_jax.deploy.next_trial import next_trial
from cola_jax.errors import InputError, count, shown
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import SKIP, LayerPath, edited, format_path, identity
from cola_jax.question import split
from cola_jax.runs.estimates import (
    CHANGE,
    CORRECT,
    ELSEWHERE,
    MODEL,
    PROMPTS,
    THESE_ALONE,
    Estimate,
)
from cola_jax.runs.path_results import LAYERS, MARGIN, length_estimate
from cola_jax.runs.prompt_results import VERDICTS, read_map
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.scoring.encoder import place_of
from cola_jax.scoring.statistics import ALPHA, Crossed, Mean, Share
from cola_jax.steps import ATTENTION, MLP, Step, is_whole, part_of

Edited = Literal["skip", "repeat"]  # of whole layers
Kind = Literal["skip", "repeat", "skip attention", "skip mlp"]
EDITS: tuple[Edited, ...] = ("skip", "repeat")  # numbered as the edits of paths are
KEPT: dict[Kind, int] = {"skip attention": MLP, "skip mlp": ATTENTION}  # parts left
KINDS: tuple[Kind, ...] = (*EDITS, *KEPT)
ELSEWHERE_MARGIN = "the same, by margin"
HIGHEST_HERE = {kind: f"highest {kind} here" for kind in KINDS}  # notes of changes
LONGEST_KEPT = "longest skip kept"  # that loses no right answers
LARGEST_MARGIN = "largest"
FLIPS = 10_000  # draws of the signs
BATCH = 1_000  # of them
# Prompts from which on they are drawn, as questions are, and not these alone. With eight, a block
# that gains 10 points on 300 questions is shown one time in four, with 16 one in two, and with 64
# as often as in these alone; with five or fewer, no p-value can be below 0.05.
DRAWN = 16


class Block(NamedTuple):
    """Layers start..stop-1, whose attention, MLP or both are skipped, or that run twice."""

    kind: Kind
    start: int
    stop: int

    @classmethod
    def of(cls, path: LayerPath, num_layers: int) -> "Block":
        """Find the block of a path that `scan_paths` made, other than the identity path."""
        parts = [place for place, step in enumerate(path) if not is_whole(step)]
        if parts:
            kept = part_of(path[parts[0]])
            kind: Kind = "skip attention" if kept == KEPT["skip attention"] else "skip mlp"
            return cls(kind, parts[0], parts[-1] + 1)
        size = abs(len(path) - num_layers)
        same = next((i for i, layer in enumerate(path) if layer != i), len(path))
        if len(path) < num_layers:
            return cls("skip", same, same + size)
        return cls("repeat", same - size, same)

    @classmethod
    def parse(cls, name: str) -> "Block":
        """Read a name such as `skip 3-4` or `skip attention 3`."""
        edit, _, layers = name.rpartition(" ")
        kind = KINDS[KINDS.index(edit)]
        first, _, last = layers.partition("-")
        return cls(kind, int(first), int(last or first) + 1)

    @property
    def name(self) -> str:
        """The edit and its layers."""
        return f"{self.kind} {format_path(range(self.start, self.stop))}"

    def path(self, num_layers: int) -> LayerPath:
        """Return the path of a model with only that change."""
        size = self.stop - self.start
        if self.kind in KEPT:
            modifier = Step(0, KEPT[self.kind]).modifier
            return edited(identity(num_layers), (SKIP, self.start, size, 0, modifier))
        edit = EDITS.index(self.kind), self.start, size, 1
        return edited(identity(num_layers), edit)


def scan_paths(
    num_layers: int,
    longest: int | None = None,
    kinds: Sequence[Edited] = EDITS,
    parts: bool = False,
) -> list[LayerPath]:
    """Return the identity path, and the path of every block of up to `longest` layers.

    Skips are first; the whole model is not skipped. With `parts`, the attention of each layer is
    skipped as well, and then the MLP of each. Raises InputError for a longest block outside
    1..num_layers.
    """
    longest = num_layers if longest is None else longest
    if not 1 <= longest <= num_layers:
        raise InputError(
            f"blocks of up to {longest} layers cannot be scanned: the model has {num_layers}, so "
            f"give 1 to {num_layers}."
        )
    blocks = [
        Block(kind, start, start + size)
        for kind in EDITS
        if kind in kinds
        for size in range(1, longest + 1)
        for start in range(num_layers - size + 1)
        if kind == "repeat" or size < num_layers
    ]
    if parts:
        blocks += [Block(kind, layer, layer + 1) for kind in KEPT for layer in range(num_layers)]
    return [identity(num_layers), *(block.path(num_layers) for block in blocks)]


def scan_results(run: Run) -> Results:
    """Compare the blocks of a scan with the model on the questions that are done.

    Raises InputError for another run, and for fewer than two questions done.
    """
    facts = run.facts()
    if facts.command != "scan":
        raise InputError(f"{run.directory} was made by {shown(facts.command)}, not by a scan.")
    ids, verdict, margin = read_map(run.evaluations(VERDICTS), len(facts.paths))
    keys = run.question_keys()
    # equal questions count as one
    once = np.sort(np.unique([keys[question] for question in ids], return_index=True)[1])
    asked = [ids[i] for i in once]
    if len(asked) < 2:
        raise InputError(
            f"{run.directory} has {count(len(asked), 'question')} done, but a map needs 2 or more: "
            "let it run."
        )
    prompts = len(facts.settings.get("choose_prompts") or ()) or 1
    estimates = scan_estimates(
        facts.paths,
        asked,
        np.array([place_of(question, prompts) for question in asked]),
        verdict[once],
        margin[once],
        facts.costs,
        f"{facts.unit_of_margins} more",
    )
    paths = {
        Block.of(path, facts.num_layers).name: format_path(path)
        for path in facts.paths
        if path != identity(facts.num_layers)
    }
    best = max((each for each in estimates if each.name == CHANGE), key=lambda each: each.value)
    path = Block.parse(best.group).path(facts.num_layers)
    facts_of_scan = {"done": len(ids), "paths": paths, "next": next_trial(run, path)}
    return Results(estimates, facts.to_json() | facts_of_scan | run.chosen_on().field())


def scan_estimates(
    paths: Sequence[LayerPath],
    ids: Sequence[str],
    prompts: np.ndarray,
    verdict: np.ndarray,
    margin: np.ndarray,
    costs: LayerCosts,
    unit: str = "nats more",
) -> list[Estimate]:
    """Compare blocks with the model by the verdicts [n, C] and margins [n, C] of their paths.

    `prompts` [n] are those in which the questions were asked, `costs` are those of layers and their
    parts, and `unit` is that of differences of margins.

    The model is first, then the blocks that a reader looks for, which have notes, and then the
    others, the most accurate first and of equals that of the larger margin. Intervals of blocks
    are simultaneous.
    """
    num_layers = costs.num_layers
    plain = list(paths).index(identity(num_layers))
    # a path that is not finite is as bad as the worst that is
    margin = np.where(np.isfinite(margin), margin, margin[np.isfinite(margin)].min(initial=0))
    others = [i for i in range(len(paths)) if i != plain]
    right = verdict[:, others].astype(np.int8) - verdict[:, [plain]]
    gain = margin[:, others] - margin[:, [plain]]
    blocks = [Block.of(paths[i], num_layers) for i in others]
    of_right = flip_test(units_of(right, prompts), added=2)
    of_gain = flip_test(units_of(gain, prompts))
    accuracy = right.mean(axis=0)
    certainty = gain.mean(axis=0)
    order = sorted(range(len(blocks)), key=lambda c: (-accuracy[c], -certainty[c]))
    notes = notes_of(blocks, order, accuracy)
    surest = int(certainty.argmax())
    noted = [c for c in order if c in notes or c == surest]
    drawn = len(np.unique(prompts))
    estimates = [
        Estimate.count("evaluations", verdict.size),
        Estimate.count(PROMPTS, drawn, note=THESE_ALONE if drawn < DRAWN else ""),
        Estimate.count(LAYERS, num_layers, group=MODEL),
        Estimate.of(CORRECT, Share.of(verdict[:, plain]), group=MODEL),
    ]
    for c in [*noted, *(c for c in order if c not in noted)]:
        group = blocks[c].name
        change, more = of_right.mean(c, len(ids), limit=1.0), of_gain.mean(c, len(ids))
        estimates += [
            length_estimate(group, paths[others[c]], costs),
            Estimate.of(CORRECT, Share.of(verdict[:, others[c]]), group=group),
            Estimate.of(
                CHANGE,
                change,
                "points",
                group=group,
                n=len(ids),
                corrected=float(of_right.p[c]),
                note=", ".join(notes.get(c, [])),
            ),
            Estimate.of(
                MARGIN,
                more,
                unit,
                group=group,
                corrected=float(of_gain.p[c]),
                note=LARGEST_MARGIN if c == surest else "",
            ),
        ]
    first = halves(ids, prompts)
    each = np.arange(len(ids))
    chosen = chosen_elsewhere(right, first)
    elsewhere = mean_of(right[each, chosen], prompts)
    by_margin = mean_of(gain[each, chosen_elsewhere(gain, first)], prompts)
    names = ", ".join(blocks[c].name for c in dict.fromkeys(chosen.tolist()))
    estimates.append(Estimate.of(ELSEWHERE, elsewhere, "points", n=len(ids), note=names))
    estimates.append(Estimate.of(ELSEWHERE_MARGIN, by_margin, unit))
    return estimates


def notes_of(
    blocks: Sequence[Block], order: Sequence[int], accuracy: np.ndarray
) -> dict[int, list[str]]:
    """Return what is said of the blocks that a reader looks for; `order` has the best first."""
    notes: dict[int, list[str]] = {}
    for kind in KINDS:
        best = next((c for c in order if blocks[c].kind == kind), None)
        if best is not None:
            notes.setdefault(best, []).append(HIGHEST_HERE[kind])
    kept = [c for c, block in enumerate(blocks) if block.kind == "skip" and accuracy[c] >= 0]
    if kept:
        longest = max(kept, key=lambda c: blocks[c].stop - blocks[c].start)
        notes.setdefault(longest, []).append(LONGEST_KEPT)
    return notes


class FlipTest(NamedTuple):
    """A test of C paths by the signs of U units: questions, or prompts."""

    p: np.ndarray  # [C], two-sided, corrected for the number of paths
    totals: np.ndarray  # [C], sums of the differences
    reach: np.ndarray  # [C], of the simultaneous 95 % intervals of the sums, NaN for too few units

    def mean(self, path: int, n: int, limit: float = math.inf) -> Mean:
        """Return the mean difference of a path over n questions, within -limit and limit."""
        middle, reach = self.totals[path] / n, self.reach[path] / n
        low, high = np.clip((middle - reach, middle + reach), -limit, limit)
        return Mean(float(middle), (float(low), float(high)))


def flip_test(units: np.ndarray, added: float = 0.0) -> FlipTest:
    """Test differences [U, C] of C paths, corrected for their number (Westfall and Young's max-T).

    If a path has no effect, its difference to the baseline on a unit has either sign as likely. The
    signs of whole units are flipped, which keeps the dependence between paths. The statistic of a
    path is the sum of its differences over the root of the sum of their squares; its p-value is the
    share of flips in which the largest statistic of all paths, of either sign, reaches it. The
    intervals exclude 0 where p is below 0.05, but for what `added` adds to the squares: rare
    changes of verdicts are not seen on few questions.
    """
    units = np.asarray(units, np.float64)
    number = len(units)
    norm = np.sqrt((units**2).sum(axis=0))
    scaled = units / np.where(norm > 0, norm, 1)
    random = np.random.default_rng(0)
    reached = np.ones(units.shape[1])
    totals = units.sum(axis=0)
    observed = np.abs(scaled.sum(axis=0))
    every = []
    for _ in range(0, FLIPS, BATCH):
        signs = random.integers(0, 2, (BATCH, number)) * 2.0 - 1
        largest = np.sort(np.abs(signs @ scaled).max(axis=1))
        # rounding must not tell equal sums apart
        reached += BATCH - np.searchsorted(largest, observed - 1e-9)
        every.append(largest)
    critical = float(np.quantile(np.concatenate(every), 1 - ALPHA))
    # the same as Student's statistic, whose error does not grow with the effect
    left = number - critical**2
    critical *= math.sqrt((number - 1) / left) if left > 1e-9 else math.nan
    spread = number * units.var(axis=0, ddof=1)
    return FlipTest(reached / (FLIPS + 1), totals, critical * np.sqrt(spread + added))


def units_of(differences: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Return what is drawn: the sums of differences [n, C] in each of many prompts, or questions.

    Questions alone are drawn where there are few prompts, and an effect is then that in these.
    """
    drawn = np.unique(prompts)
    if len(drawn) < DRAWN:
        return differences
    return np.stack([differences[prompts == prompt].sum(axis=0) for prompt in drawn])


def mean_of(differences: np.ndarray, prompts: np.ndarray) -> Mean:
    """Return the mean of differences [n], with an interval over what is drawn as in `units_of`.

    Where prompts are drawn, it is the mean over prompts.
    """
    drawn = np.unique(prompts)
    if len(drawn) >= DRAWN:
        return Mean.of(np.array([differences[prompts == prompt].mean() for prompt in drawn]))
    return Crossed.of(differences[:, None]).by_prompt[0]


def halves(ids: Sequence[str], prompts: np.ndarray) -> np.ndarray:
    """Assign questions to two halves [n] by a hash of their prompts, or of one prompt by their ids.

    Halves have other questions and other prompts.
    """
    drawn = np.unique(prompts)
    if len(drawn) > 1:
        order = split(list(map(str, drawn)), "prompt")
        return np.isin(prompts, drawn[order[: len(drawn) // 2]])
    first = np.zeros(len(ids), bool)
    first[split(ids, "")[: len(ids) // 2]] = True
    return first


def chosen_elsewhere(effects: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return for each question [n] the path that is best on the other half of the questions.

    `effects` [n, C] are those of each path on each question, `first` [n] the questions of the first
    half. Of equal means, the first path wins.
    """
    best = [int(effects[first == half].mean(axis=0).argmax()) for half in (False, True)]
    return np.where(first, best[0], best[1])
