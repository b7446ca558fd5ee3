"""What a prior of earlier searches and a path by deadline give on questions that chose neither.

`python -m experiments.prior search --model CHECKPOINT --out FOLDER --task.task arithmetic
--priors sums=RUN,RUN other=RUN` searches the questions of a task that are in none of the runs:
without a prior, and with each of the priors. It prints the share of wrong questions on which gold,
and on which a control target, was reached within 4, 8, 16, ... evaluations.

`python -m experiments.prior deadline --model CHECKPOINT --out FOLDER --task.task FILE
--task.held-out 100 --settings.max-cost 80%` searches the paths of a task within a cost, chooses the
best of its front, and compares it on the held-out questions with the first layers alone and with
random skips.

Run either again to resume.

`python -m experiments.prior recorded --runs arc=RUN sums=RUN,RUN` runs no model: it takes the
single edits that earlier searches tried on each wrong question, and orders them at random, by a
prior of other questions of the same task, and by a prior of each other task. So one sees how soon
gold and control targets are reached.
"""

import csv
import dataclasses
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from etils import epath
from scipy.special import stdtr

from cola_jax.cli.deployment import RESULT, Static, StaticFlags
from cola_jax.cli.flags import RunFlags, TaskFlags
from cola_jax.deploy.front import Front
from cola_jax.path import LayerPath, format_path, identity
from cola_jax.question import distinct, random_of
from cola_jax.runs.comparison import net_change
from cola_jax.runs.estimates import number_text, p_text
from cola_jax.runs.prior import MOST, targets_of, tried_edits, with_prior
from cola_jax.runs.run import Run
from cola_jax.runs.session import held_out_of
from cola_jax.runs.stored import stored_verdicts
from cola_jax.scoring.net import Net
from cola_jax.scoring.statistics import Difference, Mean, Share, holm, mean
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.reached import ONCE
from cola_jax.tasks.task import TaskConfig
from experiments.strategies import (
    Budget,
    Searches,
    Seed,
    corrected,
    first_hits,
    measure,
    searches,
)
from experiments.tables import points, show

HEAD = ("prior", "evaluations", "gold reached", "controls reached", "net, points")
HEAD += ("minus none, net", "first hit of gold, of controls")
NONE = "none"
FIRST = 4  # evaluations of the first budget
RANDOM = 8  # paths with as many layers as the one that is chosen
DEADLINE_HEAD = ("path", "layers", "correct, held-out", "points more than the model")


@dataclasses.dataclass(frozen=True)
class Priors(Searches):
    """Search with several priors, and without."""

    priors: tuple[str, ...] = ()
    """Priors by their names, such as sums=RUN,RUN: run directories of earlier searches."""
    preset: str = "best"
    """Strategy of all searches."""

    def run(self) -> None:
        """Search, and print hits by evaluation."""
        runs = {NONE: []}
        for text in self.priors:
            name, _, directories = text.partition("=")
            runs[name] = directories.split(",")
        session = self.prepare()
        every = [Run(directory) for each in runs.values() for directory in each]
        session = session.without(functools.reduce(operator.or_, (r.chosen_on() for r in every)))
        print(f"{len(session.asked)} questions that are in none of the {len(every)} runs\n")
        settings = self.settings(resolve(self.preset))
        prepared = {name: with_prior(session, settings, each) for name, each in runs.items()}
        arms = {}
        for name, (own, with_edits) in prepared.items():
            # each search takes what the others have evaluated
            reuse = [str(epath.Path(self.out) / other) for other in arms]
            run = own.search(str(epath.Path(self.out) / name), with_edits, reuse=reuse)
            arms[name] = [Seed(run.ways(), searches(run))]
        rows = compared(arms, self.evaluations, session.model.config.num_layers)
        show(HEAD, rows)


def compared(arms: dict[str, list[Seed]], evaluations: int, num_layers: int) -> list[list[str]]:
    """Measure the arms at each number of evaluations, and compare each with the first."""
    sizes = [FIRST * 2**n for n in range(evaluations.bit_length()) if FIRST * 2**n < evaluations]
    cells: dict[tuple[str, int, str], list[str]] = {}
    nets: dict[tuple[str, int, str], Net] = {}
    for size in [*sizes, evaluations]:
        budget = Budget(size + 1)
        base = measure(arms[NONE], budget, num_layers).targets[ONCE]
        for name, seeds in arms.items():
            targets = measure(seeds, budget, num_layers).targets[ONCE]
            kinds = first_hits(seeds, budget)
            shares = [Share.of(np.array(kind.found, bool)) for kind in kinds]
            first = [mean(np.array(kind.evaluations)) for kind in kinds]
            key = name, size, ONCE
            cells[key] = [f"{each.hits} of {each.n}" for each in shares]
            cells[key] += [points(Net.of(targets[1]))]
            cells[key] += [", ".join(f"{evaluations:.1f}" for evaluations in first)]
            if name != NONE:
                nets[key] = net_change(base, targets)
    p = corrected(nets)
    rows = []
    for key, (reached, of_controls, net, first) in cells.items():
        change = points(nets[key], p[key], counts=False) if key in nets else ""
        rows.append([key[0], str(key[1]), reached, of_controls, net, change, first])
    return rows


RECORDED_HEAD = ("questions", "prior", "evaluations", "gold reached", "controls reached")
RECORDED_HEAD += ("gold more than without", "gold minus controls, more than without")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Order the recorded single edits of wrong questions by priors, and count hits."""

    runs: tuple[str, ...]
    """Searches by the names of their tasks, such as sums=RUN,RUN."""
    out: str
    """CSV file of the figures."""
    splits: int = 200
    """Random halves of the questions, of which each in turn is the prior of the other."""

    def run(self) -> None:
        """Print hits by evaluation, and write them."""
        tried = {}
        for text in self.runs:
            name, _, directories = text.partition("=")
            tried[name] = Tried.read([Run(directory) for directory in directories.split(",")])
        every = []
        for name, own in tried.items():
            edits = sorted({edit for each in tried.values() for edit in each.edits})
            hits = own.over(edits)
            orders = {NONE: np.zeros(len(edits))}
            orders |= {x: each.over(edits).excess() for x, each in tried.items() if x != name}
            curves = {other: hits.curves(excess, self.splits) for other, excess in orders.items()}
            curves[f"{name}, other half"] = hits.curves(None, self.splits)
            every += [Gain.of(name, prior, m, curves) for prior in curves for m in range(SIZES)]
        p = holm([gain.p for gain in every])
        show(RECORDED_HEAD, [gain.row(each) for gain, each in zip(every, p, strict=True)])
        with epath.Path(self.out).open("w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(GAIN_COLUMNS)
            writer.writerows(gain.values(each) for gain, each in zip(every, p, strict=True))


GAIN_COLUMNS = ("questions", "n", "prior", "evaluations", "gold", "controls", "gold_more", "low")
GAIN_COLUMNS += ("high", "net_more", "net_low", "net_high", "p", "corrected")


class Gain(NamedTuple):
    """What a prior changes on the questions of a task in the first evaluations."""

    questions: str
    n: int
    prior: str
    evaluations: int
    gold: float  # shares reached
    controls: float
    more: Mean  # gold, paired with the order without a prior
    net: Mean  # the same minus that of controls
    p: float  # of the latter; NaN without a prior

    @classmethod
    def of(cls, questions: str, prior: str, m: int, curves: Mapping[str, np.ndarray]) -> "Gain":
        """Compare the curve of a prior with that of none at one number of evaluations."""
        gold, controls = curves[prior][:, :, m]
        more = curves[prior][:, :, m] - curves[NONE][:, :, m]
        net = more[0] - more[1]
        error = net.std(ddof=1) / len(net) ** 0.5
        p = 2 * float(stdtr(len(net) - 1, -abs(net.mean()) / error)) if error else math.nan
        shares = float(gold.mean()), float(controls.mean())
        size = FIRST_EDITS[m]
        return cls(questions, len(gold), prior, size, *shares, Mean.of(more[0]), Mean.of(net), p)

    def row(self, corrected: float) -> list[str]:
        """Format the row of a table; `corrected` is the p-value as corrected for it."""
        shares = [number_text(share, "share") for share in (self.gold, self.controls)]
        changes = ["", ""]
        if self.prior != NONE:
            p = f"; p {p_text(self.p)}, corrected {p_text(corrected)}"
            changes = [points(self.more), points(self.net) + p]
        return [self.questions, self.prior, str(self.evaluations), *shares, *changes]

    def values(self, corrected: float) -> list[Any]:
        """Return the row of a file."""
        names = [self.questions, self.n, self.prior, self.evaluations]
        bounds = [self.more.value, *self.more.interval, self.net.value, *self.net.interval]
        numbers = [self.gold, self.controls, *bounds, self.p, corrected]
        return [*names, *("" if math.isnan(number) else f"{number:.4f}" for number in numbers)]


FIRST_EDITS = (1, 2, 4, 8, 16)
SIZES = len(FIRST_EDITS)
OTHER = -1  # answer
UNTRIED = -2


class Tried(NamedTuple):
    """The answers of single edits that searches tried on Q wrong questions."""

    edits: list[tuple[int, ...]]
    # [Q, E], 0 where the answer is gold, 1..n that control target, OTHER, or UNTRIED
    answers: np.ndarray
    controls: np.ndarray  # [Q], n

    @classmethod
    def read(cls, runs: Sequence[Run]) -> "Tried":
        """Read runs; equal questions of several count once."""
        rows: dict[str, dict[tuple[int, ...], int]] = {}
        numbers = {}
        for run in runs:
            keys = run.question_keys()
            targets = targets_of(run)
            for question, edit, answer in tried_edits(run):
                if question in targets:
                    gold, controls = targets[question]
                    every = [gold, *controls]
                    place = every.index(answer) if answer in every else OTHER
                    rows.setdefault(keys[question], {}).setdefault(edit, place)
                    numbers[keys[question]] = len(controls)
        edits = sorted({edit for row in rows.values() for edit in row})
        answers = np.full((len(rows), len(edits)), UNTRIED)
        for q, key in enumerate(sorted(rows)):
            for edit, place in rows[key].items():
                answers[q, edits.index(edit)] = place
        return cls(edits, answers, np.array([numbers[key] for key in sorted(rows)]))

    def over(self, edits: Sequence[tuple[int, ...]]) -> "Tried":
        """Return the same with columns for these edits, among which are all of its own."""
        answers = np.full((len(self.answers), len(edits)), UNTRIED)
        answers[:, [edits.index(edit) for edit in self.edits]] = self.answers
        return self._replace(edits=[*edits], answers=answers)

    def excess(self, questions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the excess [E] of each edit on these questions; see `Prior`."""
        answers = self.answers[questions]
        lost = (answers > 0) / self.controls[questions][:, None]
        return ((answers == 0) - lost).sum(axis=0)

    def curves(self, excess: np.ndarray | None, splits: int) -> np.ndarray:
        """Return the shares of gold and of controls reached by the first edits [2, Q, M].

        Edits with the `excess` of a prior come first, in its order, and all others in random order;
        without one, halves of the questions are the priors of each other. Means over random draws.
        """
        count = len(self.answers)
        total = np.zeros((2, count, len(FIRST_EDITS)))
        for split in range(splits):
            random = random_of("halves", split)
            half = random.permutation(count) % 2
            noise = random.random(self.answers.shape)
            for part in range(2):
                mine = half == part
                weights = self.excess(half != part) if excess is None else excess
                first = np.zeros(len(weights))
                best = np.argsort(-weights, kind="stable")[:MOST]
                first[best] = np.maximum(weights[best], 0)
                answers = self.answers[mine]
                scores = np.where(answers != UNTRIED, first + noise[mine] * 1e-3, -1.0)
                order = np.argsort(-scores, axis=1)
                total[:, mine] += reached(
                    np.take_along_axis(answers, order, axis=1), self.controls[mine]
                )
        return total / splits


def reached(answers: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Return whether gold, and which share of controls, is in the first answers [2, Q, M].

    `answers` are [Q, E] in order, and `controls` [Q] the number of control targets.
    """
    ends = [number - 1 for number in FIRST_EDITS]
    targets = np.arange(1 + controls.max())
    hits = np.maximum.accumulate(answers[:, None] == targets[:, None], axis=2)[:, :, ends]
    return np.stack([hits[:, 0], hits[:, 1:].sum(axis=1) / controls[:, None]])


class Compared(NamedTuple):
    """A path beside the model, on held-out questions."""

    name: str
    layers: int
    right: np.ndarray  # [n] bool

    def row(self, plain: np.ndarray) -> list[str]:
        """Format the row; `plain` are the model's answers [n]."""
        change = Difference.of(self.right, plain)
        low, high = (number_text(bound, "points") for bound in change.interval)
        size = (
            ""
            if self.right is plain
            else f"{number_text(change.value, 'points')} ({low} to {high})"
        )
        return [self.name, str(self.layers), number_text(self.right.mean(), "share"), size]


@dataclasses.dataclass(frozen=True)
class Deadline:
    """Search the paths of a task at a highest cost, and compare the chosen one on others."""

    model: str
    """Checkpoint directory."""
    out: str
    """Folder of the runs."""
    task: TaskConfig
    settings: StaticFlags
    """Settings of `cola static`; give --settings.max-cost."""

    def run(self) -> None:
        """Search as `cola static`, and print the path for the highest cost beside others."""
        static = str(epath.Path(self.out) / "static")
        flags = TaskFlags(self.model, self.task, static, RunFlags())
        Static(flags=flags, settings=self.settings).run()
        front = Front.read(f"{static}/{RESULT}")
        chosen = front.best(str(self.settings.max_cost))
        session = flags.prepare()
        plain = identity(session.model.config.num_layers)
        first = plain[: len(chosen.path)]
        others = random_skips(len(plain), len(chosen.path))
        paths = [plain, chosen.path, first, *others]
        folder = str(epath.Path(self.out) / "held-out")
        run = session.evaluate(folder, paths, held_out=True)
        questions = held_out_of(session).questions
        verdicts = stored_verdicts(run, questions, session.asked.scorer, len(paths)).verdict
        right = verdicts[distinct(questions)]  # [n, C]
        model = right[:, 0]
        print(f"\n{len(right)} held-out questions, at most {self.settings.max_cost} of the cost\n")
        rows = [
            Compared("the model", len(plain), model),
            Compared(f"chosen: {format_path(chosen.path)}", len(chosen.path), right[:, 1]),
            Compared(f"the first layers: {format_path(first)}", len(first), right[:, 2]),
        ]
        lines = [row.row(model) for row in rows]
        shares = right[:, 3:].mean(axis=0)
        each = ", ".join(number_text(share, "share") for share in np.sort(shares)[::-1])
        lines.append([f"{RANDOM} paths of random skips", str(len(first)), each, ""])
        show(DEADLINE_HEAD, lines)


def random_skips(num_layers: int, layers: int) -> list[LayerPath]:
    """Draw paths that skip layers at random, as many as leave `layers` of them."""
    random = random_of("skips", num_layers, layers)
    drawn = (random.permutation(num_layers)[:layers] for _ in range(RANDOM))
    return [tuple(np.sort(kept).tolist()) for kept in drawn]


if __name__ == "__main__":
    Command = (
        Annotated[Priors, tyro.conf.subcommand("search")]
        | Annotated[Deadline, tyro.conf.subcommand("deadline")]
        | Annotated[Recorded, tyro.conf.subcommand("recorded")]
    )
    tyro.cli(Command, description=__doc__).run()
