"""Scans: the paths that skip or repeat each block of layers, and the report of their effects.

The best of hundreds of blocks looks better than it is, by luck alone. So p-values are corrected for
the number of blocks, and a block chosen on half of the questions is measured on the others.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from cola_jax.errors import InputError, shown
from cola_jax.path import LayerPath, edited, format_path, identity
from cola_jax.question import split
from cola_jax.report.document import Document, run_settings, run_title
from cola_jax.runs.prompt_results import read_map
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import (
    Row,
    Table,
    format_interval,
    format_p,
    format_percent,
    format_points,
    format_signed,
    is_shown,
)
from cola_jax.scoring.statistics import Difference, Mean, Share

Kind = Literal["skip", "repeat"]
KINDS: tuple[Kind, ...] = ("skip", "repeat")  # numbered as the edits of paths are
COLUMNS = ["question", "node", "verdict", "margin"]
FLIPS = 10_000  # draws of the signs
BATCH = 1_000  # of them


class Block(NamedTuple):
    """Layers start..stop-1, skipped or run a second time after the first."""

    kind: Kind
    start: int
    stop: int

    def path(self, num_layers: int) -> LayerPath:
        """Return the path of a model with only that change."""
        edit = KINDS.index(self.kind), self.start, self.stop - self.start, 1
        return edited(identity(num_layers), edit)


def scan_paths(
    num_layers: int, longest: int | None = None, kinds: Sequence[Kind] = KINDS
) -> list[LayerPath]:
    """Return the identity path, and the path of every block of up to `longest` layers.

    Skips are first; the whole model is not skipped. Raises InputError for a longest block outside
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
        for kind in KINDS
        if kind in kinds
        for size in range(1, longest + 1)
        for start in range(num_layers - size + 1)
        if kind == "repeat" or size < num_layers
    ]
    return [identity(num_layers), *(block.path(num_layers) for block in blocks)]


def block_of(path: LayerPath, num_layers: int) -> Block:
    """Find the block of a path that `scan_paths` made, other than the identity path."""
    size = abs(len(path) - num_layers)
    same = next((i for i, layer in enumerate(path) if layer != i), len(path))
    skip = len(path) < num_layers
    return Block("skip", same, same + size) if skip else Block("repeat", same - size, same)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One block, compared with the pretrained model on the same questions."""

    block: Block
    path: LayerPath
    correct: Share
    difference: Difference  # of correct answers
    p: float  # corrected for the number of blocks; two-sided
    margin: Mean  # difference of margins
    p_margin: float


def by_accuracy(cell: Cell) -> tuple[float, float]:
    """Order cells by accuracy, and equal ones by the margin."""
    return cell.difference.value, cell.margin.value


@dataclasses.dataclass(frozen=True, eq=False)
class ScanSummary:
    """The cells of all blocks, and the effect of the best on other questions."""

    num_layers: int
    questions: int
    before: Share  # the pretrained model
    cells: tuple[Cell, ...]
    # the best cell of one half of the questions, measured on the other, both ways
    elsewhere: Difference
    elsewhere_margin: Mean
    elsewhere_blocks: tuple[Block, ...]  # those chosen, by accuracy

    @property
    def best(self) -> Cell:
        """The cell of the highest accuracy; of equal ones that of the larger margin."""
        return max(self.cells, key=by_accuracy)

    def best_of(self, kind: Kind) -> Cell | None:
        """The best cell of one kind of edit, if it was scanned."""
        cells = [cell for cell in self.cells if cell.block.kind == kind]
        return max(cells, key=by_accuracy, default=None)

    @property
    def best_margin(self) -> Cell:
        """The cell of the largest margin."""
        return max(self.cells, key=lambda cell: cell.margin.value)

    @property
    def shortest_without_loss(self) -> Cell | None:
        """The longest block that is skipped with no fewer right answers, if there is one."""
        kept = [c for c in self.cells if c.block.kind == "skip" and c.difference.value >= 0]
        return min(kept, key=lambda cell: len(cell.path), default=None)


def summarise_scan(run: Run) -> ScanSummary:
    """Summarise the questions of a scan that are done.

    Raises InputError for another run, and for fewer than two questions done.
    """
    facts = run.facts()
    if facts.command != "scan":
        raise InputError(f"{run.directory} was made by {shown(facts.command)}, not by a scan.")
    paths = facts.paths
    ids, verdict, margin = read_map(run.evaluations(COLUMNS), len(paths))
    if len(ids) < 2:
        raise InputError(
            f"{run.directory} has {len(ids)} questions done, but a map needs 2 or more: let it run."
        )
    return summarise_map(paths, ids, verdict, margin, facts.num_layers)


def summarise_map(
    paths: Sequence[LayerPath],
    ids: Sequence[str],
    verdict: np.ndarray,
    margin: np.ndarray,
    num_layers: int,
) -> ScanSummary:
    """Summarise the verdicts [n, C] and margins [n, C] of the paths of a scan."""
    plain = list(paths).index(identity(num_layers))
    # a path that is not finite is as bad as the worst that is
    margin = np.where(np.isfinite(margin), margin, margin[np.isfinite(margin)].min(initial=0))
    others = [i for i in range(len(paths)) if i != plain]
    right = verdict[:, others].astype(np.int8) - verdict[:, [plain]]
    gain = margin[:, others] - margin[:, [plain]]
    p, p_margin = flip_test(right), flip_test(gain)
    cells = tuple(
        Cell(
            block=block_of(paths[i], num_layers),
            path=paths[i],
            correct=Share.of(verdict[:, i]),
            difference=Difference.of(verdict[:, i], verdict[:, plain]),
            p=float(p[c]),
            margin=Mean.of(gain[:, c]),
            p_margin=float(p_margin[c]),
        )
        for c, i in enumerate(others)
    )
    first, each = halves(ids), np.arange(len(ids))
    chosen, surest = chosen_elsewhere(right, first), chosen_elsewhere(gain, first)
    return ScanSummary(
        num_layers=num_layers,
        questions=len(ids),
        before=Share.of(verdict[:, plain]),
        cells=cells,
        elsewhere=Difference.of(verdict[:, others][each, chosen], verdict[:, plain]),
        elsewhere_margin=Mean.of(gain[each, surest]),
        elsewhere_blocks=tuple(cells[c].block for c in dict.fromkeys(chosen.tolist())),
    )


def flip_test(differences: np.ndarray) -> np.ndarray:
    """Return two-sided p-values [C] corrected for C paths (Westfall and Young's max-T).

    If a path has no effect, its difference [n, C] to the baseline on a question has either sign as
    likely. The signs of whole questions are flipped, which keeps the dependence between paths. The
    statistic of a path is the sum of its differences over the root of the sum of their squares; its
    p-value is the share of flips in which the largest statistic of all paths, of either sign,
    reaches it.
    """
    differences = np.asarray(differences, np.float64)
    norm = np.sqrt((differences**2).sum(axis=0))
    scaled = differences / np.where(norm > 0, norm, 1)
    random = np.random.default_rng(0)
    reached = np.ones(differences.shape[1])
    observed = np.abs(scaled.sum(axis=0))
    for _ in range(0, FLIPS, BATCH):
        signs = random.integers(0, 2, (BATCH, len(differences))) * 2.0 - 1
        largest = np.sort(np.abs(signs @ scaled).max(axis=1))
        # rounding must not tell equal sums apart
        reached += BATCH - np.searchsorted(largest, observed - 1e-9)
    return reached / (FLIPS + 1)


def halves(ids: Sequence[str]) -> np.ndarray:
    """Assign questions to two halves [n] of equal size by a hash of their ids."""
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


def scan_report(run: Run, summary: ScanSummary) -> Document:
    """Make the report of a scan from its summary."""
    facts = run.facts()
    columns = ("", "block", "positions", "correct", "change", "p")
    return Document(
        run_title(facts.start),
        [scan_verdict(summary)],
        f"{len(summary.cells):,} blocks of {summary.num_layers} layers on {summary.questions:,} "
        "questions.",
        [Table(scan_rows(summary), columns=columns)],
        scan_note(summary),
        run_settings(facts.settings, facts.start),
    )


def scan_verdict(summary: ScanSummary) -> str:
    """State in a sentence whether a block makes the model more accurate."""
    best = summary.best
    interval = format_interval(best.difference.interval, signed=True)
    size = (
        f"{format_points(best.difference.value)} points, 95 % interval {interval}, p "
        f"{format_p(best.p)} corrected for {len(summary.cells)} blocks"
    )
    if best.difference.value > 0 and is_shown(best.p, best.difference.interval):
        return f"Shown: {block_name(best.block)} makes the model more accurate ({size})."
    return (
        "Nothing shown: no block makes the model more accurate beyond chance; "
        f"{block_name(best.block)} is best ({size})."
    )


def scan_rows(summary: ScanSummary) -> list[Row]:
    """List the cells that a reader looks for first, each interval below its change."""
    cells = {f"best {kind}": summary.best_of(kind) for kind in KINDS}
    cells["longest skip kept"] = summary.shortest_without_loss
    correct = format_percent(summary.before.value)
    rows = [Row("model", ("", str(summary.num_layers), correct, "", ""))]
    for label, cell in cells.items():
        if cell is not None:
            interval = format_interval(cell.difference.interval, signed=True)
            change = f"{format_points(cell.difference.value)}\n{interval}"
            rows.append(cell_row(label, cell, change, cell.p))
    cell = summary.best_margin
    rows.append(cell_row("largest margin", cell, signed_mean(cell.margin, "\n"), cell.p_margin))
    return rows


def cell_row(label: str, cell: Cell, change: str, p: float) -> Row:
    """Make the row of a block."""
    correct = format_percent(cell.correct.value)
    return Row(label, (block_name(cell.block), str(len(cell.path)), correct, change, format_p(p)))


def block_name(block: Block) -> str:
    """Name a block by its layers."""
    first, last = block.start, block.stop - 1
    return f"{block.kind} {first}" if first == last else f"{block.kind} {first}-{last}"


def signed_mean(mean: Mean, separator: str) -> str:
    """Format a difference of margins with its interval."""
    value, low, high = (format_signed(x, 2) for x in (mean.value, *mean.interval))
    return f"{value}{separator}{low} to {high}"


def scan_note(summary: ScanSummary) -> str:
    """Explain the numbers, and give the effect of the best block on other questions."""
    chosen = ", ".join(map(block_name, summary.elsewhere_blocks))
    interval = format_interval(summary.elsewhere.interval, signed=True)
    return (
        "Changes are in points of accuracy, or of the margin in the unit of scores (nats; per "
        "character for options-norm), paired over questions; a "
        "skip is kept if no fewer questions are right. p, two-sided: the chance that the largest "
        "change of all blocks, up or down, would reach this if none had an effect. A block chosen "
        "on one half of the "
        f"questions ({chosen}), measured on the other: {format_points(summary.elsewhere.value)} "
        f"points ({interval}); by margin, {signed_mean(summary.elsewhere_margin, ', ')}. `cola "
        "verify` tries a block in other prompts."
    )


def scan_records(summary: ScanSummary) -> list[dict[str, Any]]:
    """Return every cell as a record; p-values are corrected for the number of cells."""
    records = []
    for cell in summary.cells:
        record: dict[str, Any] = cell.block._asdict()
        record |= {"layers": len(cell.path), "path": format_path(cell.path)}
        for name, part in (("correct", cell.correct), ("difference", cell.difference)):
            low, high = part.interval
            record |= {name: part.value, f"{name}_low": low, f"{name}_high": high}
        low, high = cell.margin.interval
        record |= {"p": cell.p, "margin_difference": cell.margin.value, "margin_low": low}
        records.append(record | {"margin_high": high, "p_margin": cell.p_margin})
    return records


def scan_csv(records: Sequence[dict[str, Any]]) -> str:
    """Write records as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()
