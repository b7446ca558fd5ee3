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
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from etils import epath

from cola_jax.cli.deployment import RESULT, Static
from cola_jax.cli.flags import RunFlags, TaskFlags
from cola_jax.deploy.front import Front
from cola_jax.deploy.settings import StaticSettings
from cola_jax.path import LayerPath, format_path, identity
from cola_jax.question import distinct, random_of
from cola_jax.runs.comparison import net_change
from cola_jax.runs.estimates import number_text
from cola_jax.runs.prior import with_prior
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session, held_out_of
from cola_jax.runs.stored import stored_verdicts
from cola_jax.scoring.net import Net
from cola_jax.scoring.statistics import Difference, Share, mean
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.reached import ONCE
from cola_jax.tasks.task import TaskConfig
from experiments.paper.results import points, show
from experiments.strategies import Searches, Seed, corrected, first_hits, measure, searches

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
        arms = {}
        for name in runs:
            reuse = [str(epath.Path(self.out) / other) for other in arms]
            arms[name] = self.arm(session, name, runs[name], reuse)
        rows = compared(arms, self.evaluations, session.model.config.num_layers)
        show(HEAD, rows)

    def arm(
        self, session: Session, name: str, directories: Sequence[str], reuse: Sequence[str]
    ) -> list[Seed]:
        """Search with a prior of these runs; evaluations of other arms are reused."""
        session, settings = with_prior(session, self.settings(resolve(self.preset)), directories)
        run = session.search(str(epath.Path(self.out) / name), settings, reuse=reuse)
        return [Seed(run.ways(), searches(run))]


def compared(arms: dict[str, list[Seed]], evaluations: int, num_layers: int) -> list[list[str]]:
    """Measure the arms at each number of evaluations, and compare each with the first."""
    sizes = [FIRST * 2**n for n in range(evaluations.bit_length()) if FIRST * 2**n < evaluations]
    cells: dict[tuple[str, int, str], list[str]] = {}
    nets: dict[tuple[str, int, str], Net] = {}
    for size in [*sizes, evaluations]:
        base = measure(arms[NONE], size + 1, num_layers).targets[ONCE]
        for name, seeds in arms.items():
            targets = measure(seeds, size + 1, num_layers).targets[ONCE]
            gold, controls = first_hits(seeds, size + 1)
            shares = [Share.of(hits <= size) for hits in (gold, controls)]
            key = name, size, ONCE
            cells[key] = [f"{each.hits} of {each.n}" for each in shares]
            cells[key] += [points(Net.of(targets[1]))]
            cells[key] += [f"{mean(gold):.1f}, {mean(controls):.1f}"]
            if name != NONE:
                nets[key] = net_change(base, targets)
    p = corrected(nets)
    rows = []
    for key, (reached, of_controls, net, first) in cells.items():
        change = points(nets[key], p[key], counts=False) if key in nets else ""
        rows.append([key[0], str(key[1]), reached, of_controls, net, change, first])
    return rows


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
    settings: StaticSettings
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
    )
    tyro.cli(Command, description=__doc__).run()
