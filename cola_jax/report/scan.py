"""`ScanSummary`: what skipping and repeating each block does, corrected for having many blocks."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from etils import epath

from cola_jax.deploy.scan import Block, Kind, Path, block_of
from cola_jax.errors import InputError, shown
from cola_jax.path import identity
from cola_jax.report.chosen import chosen_elsewhere, flip_test, halves
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Difference, Mean, Share

COLUMNS = ["question", "node", "verdict", "margin"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One block of the map, compared with the pretrained model on the same questions."""

    block: Block
    path: Path
    correct: Share
    difference: Difference  # of correct answers
    p: float  # corrected for the number of blocks; two-sided
    margin: Mean  # difference of margins
    p_margin: float


def by_accuracy(cell: Cell) -> tuple[float, float]:
    """Orders cells by accuracy, and equal ones by the margin."""
    return cell.difference.value, cell.margin.value


@dataclasses.dataclass(frozen=True, eq=False)
class ScanSummary:
    """A map of blocks, its best cells, and what they are on questions not chosen on."""

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
    """Summarises the questions of a scan that are done.

    Raises ValueError for another run, and for fewer than two questions done.
    """
    manifest = run.manifest()
    settings = manifest["settings"]
    if (command := settings.get("command")) != "scan":
        raise InputError(f"{run.directory} was made by {shown(command)}, not by a scan.")
    num_layers = manifest["starts"][-1]["num_layers"]
    paths = [tuple(path) for path in settings["paths"]]
    check_blocks(run.directory, paths, num_layers)
    rows = run.evaluations(COLUMNS)
    ids, verdict, margin = read_map(rows, len(paths))
    if len(ids) < 2:
        raise InputError(
            f"{run.directory} has {len(ids)} questions done, but a map needs 2 or more: let it run."
        )
    return summarise_map(paths, ids, verdict, margin, num_layers)


def check_blocks(directory: epath.PathLike, paths: list[Path], num_layers: int) -> None:
    """Raises ValueError for paths other than the identity path and those of blocks, each once."""
    plain = identity(num_layers)
    others = [path for path in paths if path != plain]
    are_blocks = all(block_of(path, num_layers).path(num_layers) == path for path in others)
    if not are_blocks or len(others) != len(paths) - 1 or len(set(others)) < len(others):
        raise InputError(
            f"{directory} is no scan of {num_layers} layers: its paths are not those of blocks."
        )


def summarise_map(
    paths: Sequence[Path],
    ids: Sequence[str],
    verdict: np.ndarray,
    margin: np.ndarray,
    num_layers: int,
) -> ScanSummary:
    """Summarises the verdicts [n, C] and margins [n, C] of the paths of a scan."""
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


def read_map(rows: pa.Table, paths: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Arranges evaluations: sorted ids of n questions, verdicts [n, C] and margins [n, C]."""
    # the signs of questions are drawn in order, which must not depend on that of part files
    rows = rows.sort_by("question")
    question = rows["question"].combine_chunks().dictionary_encode()
    ids = question.dictionary.to_pylist()
    at = question.indices.to_numpy(), rows["node"].to_numpy()
    verdict, margin = np.zeros((len(ids), paths), bool), np.full((len(ids), paths), -np.inf)
    verdict[at] = rows["verdict"].fill_null(False).to_numpy()
    margin[at] = rows["margin"].to_numpy()
    return ids, verdict, margin
