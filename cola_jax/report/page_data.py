"""The numbers behind the figures of a page: one table for each figure, drawn and shown as it is."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.report.columns import is_null, is_true
from cola_jax.report.layer_ratio import ratio_rows
from cola_jax.report.layers import ALL, CONTROLS, CORRECTED, RETAINED, best_paths
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share

NEVER = np.iinfo(np.int32).max  # evaluations or layers until what does not happen
QUESTIONS = [
    "question",
    "baseline",
    "baseline_answer",
    "best",
    "controls",
]  # the columns that are read
COLUMNS = ["question", "path", "length", "verdict", "node", "target", "control"]

EVERY, RIGHT, WRONG = "all questions", "correct before", "wrong before"  # questions
GOLD, CONTROL, PLAIN, SHORTEST = "search", "control", "pretrained model", "shortest correct path"
BEST, TRIED, CORRECT = "shortest correct path", "all paths tried", "correct evaluations"
FIGURES = {
    "evaluations": ("run", "questions", "search", "evaluations", "share", "low", "high", "n"),
    "transitions": ("run", "paths", "transition", "count", "share", "n"),
    "depth": ("run", "questions", "search", "layers", "share", "low", "high", "n"),
    "front": ("run", "questions", "search", "layers", "share", "low", "high", "n"),
    "ratios": ("run", "paths", "layers", "runs", "tried", "ratio", "low", "high", "n"),
    "use": ("run", "paths", "layer", "skipped", "extra_runs", "moved", "n"),
    "lengths": ("run", "paths", "layers", "count"),
}
Rows = list[tuple[Any, ...]]


def figures_of(runs: Sequence[tuple[str, Run, Summary]]) -> dict[str, dict[str, Any]]:
    """Computes the table of every figure over the runs, each given with its name."""
    tables: dict[str, Rows] = {name: [] for name in FIGURES}
    for label, run, summary in runs:
        for name, rows in run_figures(run, summary).items():
            tables[name] += [(label, *row) for row in rows]
    return {
        name: {"columns": FIGURES[name], "rows": [tuple(map(rounded, row)) for row in rows]}
        for name, rows in tables.items()
    }


def rounded(value: Any) -> Any:
    """Shortens a number for a page; what is not finite has no value in JSON."""
    if not isinstance(value, float):
        return value
    return round(value, 5) if np.isfinite(value) else None


def run_figures(run: Run, summary: Summary) -> dict[str, Rows]:
    """Computes the rows of every figure for one run."""
    questions, rows = run.questions(QUESTIONS), run.evaluations(COLUMNS)
    gold, control = searches_of(questions, rows)
    own = rows.filter(pa.array(~is_true(rows["control"])))
    groups = {name: paths for name, paths in best_paths(questions).items() if len(paths)}
    return {
        "evaluations": evaluation_curve(gold, control),
        "transitions": transition_rows(questions, own),
        "depth": depth_curve(summary),
        "front": front_rows(gold, control, summary),
        "ratios": ratio_rows(groups, own["path"], summary.num_layers),
        "use": layer_uses(summary),
        "lengths": length_counts(summary),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class SearchCosts:
    """What S searches reached, those of questions whose baseline is graded."""

    right: np.ndarray  # [S], whether the pretrained model answers the question correctly
    first: np.ndarray  # [S], evaluations before the first path that gives the target, or NEVER
    reached: np.ndarray  # [S], layers of the shortest such path, or NEVER
    shortest: np.ndarray  # [S], layers of the shortest path that was evaluated
    evaluations: int  # of the longest search, beyond its baseline

    def group(self, questions: str) -> "SearchCosts":
        """Selects the searches of some questions, such as those wrong before."""
        mask = {EVERY: self.right | True, RIGHT: self.right, WRONG: ~self.right}[questions]
        fields = (self.right, self.first, self.reached, self.shortest)
        return SearchCosts(*(field[mask] for field in fields), evaluations=self.evaluations)


def searches_of(questions: pa.Table, rows: pa.Table) -> tuple[SearchCosts, SearchCosts]:
    """Reads the searches for gold and the control searches from the tables of a run."""
    question = index_in(rows["question"], questions["question"])
    right, graded = is_true(questions["baseline"]), ~is_null(questions["baseline"])
    known = (question >= 0) & graded[question]
    control = is_true(rows["control"])
    target = np.where(control, rows["target"].fill_null(-1).to_numpy(), 0)
    span = int(target.max(initial=0)) + 2

    def select(mask: np.ndarray) -> SearchCosts:
        mask = mask & known
        searches, search = np.unique((question * span + target + 1)[mask], return_inverse=True)
        node, length = rows["node"].to_numpy()[mask], rows["length"].to_numpy()[mask]
        hit = is_true(rows["verdict"])[mask]
        return SearchCosts(
            right=right[searches // span],
            first=group_minimum(search[hit], node[hit], len(searches)),
            reached=group_minimum(search[hit], length[hit], len(searches)),
            shortest=group_minimum(search, length, len(searches)),
            evaluations=int(node.max(initial=0)),
        )

    own = questions["baseline_answer"].fill_null(-1).to_numpy()[question] == target
    return select(~control), select(control & ~own)


def index_in(names: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Returns the place of each name among others, -1 where it is none of them."""
    others = pc.SetLookupOptions(among.combine_chunks())
    return pc.call_function("index_in", [names], others).fill_null(-1).to_numpy()


def group_minimum(group: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Returns the smallest value of each group, NEVER for a group without one."""
    out = np.full(count, NEVER, np.int64)
    np.minimum.at(out, group, values)
    return out


def evaluation_curve(gold: SearchCosts, control: SearchCosts) -> Rows:
    """Lists the share of searches that have reached their target, by evaluations made."""
    groups = ((EVERY, GOLD, gold), (WRONG, GOLD, gold), (WRONG, CONTROL, control))
    return [
        (questions, search, *row)
        for questions, search, every in groups
        for row in cumulative(every.group(questions).first, every.evaluations)
    ]


def cumulative(at: np.ndarray, last: int) -> Iterator[tuple[Any, ...]]:
    """Yields the share that is at most x for x = 0..last, where it changes and at both ends."""
    if not len(at):
        return
    hits = np.cumsum(np.bincount(at[at <= last], minlength=last + 1))
    for x in np.flatnonzero(np.diff(hits, prepend=-1) | (np.arange(last + 1) == last)):
        yield int(x), *share_cells(int(hits[x]), len(at))


def share_cells(hits: int, n: int) -> tuple[float, float, float, int]:
    """Returns a share with its interval and the number that it is of."""
    share = Share(hits, n)
    return share.value, *share.interval, n


def transition_rows(questions: pa.Table, own: pa.Table) -> Rows:
    """Counts verdicts before and after: of the shortest correct paths, and of all paths tried."""
    correct, found = is_true(questions["baseline"]), ~is_null(questions["best"])
    graded = ~is_null(questions["baseline"])
    question = index_in(own["question"], questions["question"])
    tried = (own["node"].to_numpy() > 0) & (question >= 0) & graded[question]
    tried &= ~is_null(own["verdict"])
    groups = (
        (BEST, correct[graded], found[graded]),
        (TRIED, correct[question[tried]], is_true(own["verdict"])[tried]),
    )
    return [
        (paths, f"{a}→{b}", *counted(before == (a == "C"), after == (b == "C")))
        for paths, before, after in groups
        for a, b in ("CC", "WC", "CW", "WW")
    ]


def counted(before: np.ndarray, after: np.ndarray) -> tuple[int, float, int]:
    """Counts where both hold, with the share."""
    share = Share.of(before & after)
    return share.hits, share.value, share.n


def depth_curve(summary: Summary) -> Rows:
    """Lists the share of searches that reach their target on at most so many layers."""
    reach = summary.reach
    hits = {name: np.rint(one.share * one.searches).astype(int) for name, one in reach.items()}
    total = reach[RETAINED].searches + reach[CORRECTED].searches
    groups = [(EVERY, GOLD, hits[RETAINED] + hits[CORRECTED], total)]
    for questions, name in ((RIGHT, RETAINED), (WRONG, CORRECTED)):
        for search, label in ((GOLD, name), (CONTROL, CONTROLS[name])):
            groups.append((questions, search, hits[label], reach[label].searches))
    start = min((int(np.argmax(own > 0)) for *_, own, _ in groups if own.any()), default=1)
    return [
        (questions, search, int(x), *share_cells(int(own[x]), n))
        for questions, search, own, n in groups
        if n
        for x in range(max(start - 1, 0), len(own))
        if x in (start - 1, len(own) - 1) or own[x] != own[x - 1]
    ]


def front_rows(gold: SearchCosts, control: SearchCosts, summary: Summary) -> Rows:
    """Lists the front of the mean layers and of the share correct, and two points to compare."""
    rows: Rows = []
    for questions, search, every in (
        (EVERY, GOLD, gold), (WRONG, GOLD, gold), (WRONG, CONTROL, control)
    ):  # fmt: skip
        rows += [(questions, search, *row) for row in front(every.group(questions))]
    for name, layers, share in (
        (PLAIN, float(summary.num_layers), summary.before),
        (SHORTEST, summary.length, summary.after),
    ):
        rows.append((EVERY, name, layers, *share_cells(share.hits, share.n)))
    return rows


def front(searches: SearchCosts) -> Iterator[tuple[Any, ...]]:
    """Yields the best shares for every mean of layers, where each search may take any path.

    Taking the shortest path is cheapest. From there, the searches whose shortest path to the target
    costs the fewest more layers come first, which is optimal as every one adds as much.
    """
    n = len(searches.first)
    if not n:
        return
    extra = np.where(searches.reached < NEVER, searches.reached - searches.shortest, NEVER)
    total = int(searches.shortest.sum())
    costs, counts = np.unique(extra[extra < NEVER], return_counts=True)
    if not len(costs) or costs[0]:
        yield total / n, *share_cells(0, n)
    hits = 0
    for cost, count in zip(costs.tolist(), counts.tolist(), strict=True):
        total, hits = total + cost * count, hits + count
        yield total / n, *share_cells(hits, n)


def layer_uses(summary: Summary) -> Rows:
    """Lists how often each group of paths skips, repeats and moves each layer."""
    return [
        (TRIED if name == ALL else name, layer, *map(float, cells), use.paths)
        for name, use in summary.layers.items()
        if use.paths
        for layer, cells in enumerate(zip(use.skipped, use.repeats, use.moved, strict=True))
    ]


def length_counts(summary: Summary) -> Rows:
    """Counts the layers of the shortest correct paths, and of all correct evaluations."""
    groups = summary.best_lengths | {CORRECT: summary.correct_lengths}
    return [
        (name, int(layers), int(counts[layers]))
        for name, counts in groups.items()
        for layers in np.flatnonzero(counts)
    ]
