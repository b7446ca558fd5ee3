"""Both designs of routers, trained on the correct paths of one run: speed, memory and worth.

`python -m experiments.routers --model CHECKPOINT --run RUN --out FOLDER --task.task arithmetic`
with the task flags of the run prints, for the run's held-out questions, the metrics of each class
of how often a layer runs, identity collapse, and the accuracy of the paths named beside that of
the plain model. Peak memory is that of the whole process, the model and earlier designs included.
"""

import dataclasses
import resource

import tyro

from cola_jax.deploy.router.designs import make_design
from cola_jax.deploy.router.distill import DistillConfig, Distilled, distill
from cola_jax.deploy.router.summary import percent, share
from cola_jax.runs.session import Session
from cola_jax.tasks.task import TaskConfig
from experiments.paper.results import show

DESIGNS = ("drllm", "polar")


@dataclasses.dataclass(frozen=True)
class Routers:
    """Train both designs on a run, with several seeds."""

    model: str
    """Checkpoint directory."""
    run: str
    """Run directory of a search."""
    out: str
    """Folder for the routers: created, or their training resumed."""
    task: TaskConfig
    config: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    seeds: tuple[int, ...] = (0,)
    """Random seeds, each for a router of each design."""

    def distill(self, session: Session, design: str, seed: int) -> Distilled:
        """Trains one router."""
        training = dataclasses.replace(self.config.training, seed=seed)
        config = dataclasses.replace(self.config, training=training)
        sizes = session.config.num_layers, session.config.width
        out = f"{self.out}/{design}-{seed}"
        return distill(session, self.run, out, make_design(design, *sizes), config)


def cost(one: Distilled) -> list[str]:
    """Says what a training took."""
    speed = one.examples_per_second
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
    return [
        f"{one.examples.training}",
        "–" if speed is None else f"{speed:.0f}",
        f"{peak:.1f}",
        f"{one.losses[-1]:.4f}",
    ]


def classes(one: Distilled) -> list[list[str]]:
    """Says how well each class is predicted, in the paths named."""
    found = one.layers
    columns = zip(found.names, found.precision, found.recall, found.f1, strict=True)
    support = found.confusion.sum(axis=1)
    return [
        [name, f"{n}", *map(percent, values)]
        for n, (name, *values) in zip(support, columns, strict=True)
    ]


def worth(one: Distilled) -> list[str]:
    """Says what the paths named do on held-out questions."""
    collapse, routed = one.collapse, one.routed
    low, high = routed.difference.interval
    over = 100 * (collapse.accuracy - collapse.identity_accuracy)
    return [
        f"{percent(collapse.identity / collapse.questions)}, {collapse.distinct}",
        f"{over:+.1f}",
        share(routed.plain),
        share(routed.top),
        f"{100 * routed.difference.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        f"{routed.layers:.2f}",
    ]


def main(settings: Routers) -> None:
    session = Session.prepare(settings.model, settings.task.prepare)
    costs, by_class, worths = [], [], []
    for design in DESIGNS:
        for seed in settings.seeds:
            one, name = settings.distill(session, design, seed), f"{design}, seed {seed}"
            costs.append([name, *cost(one)])
            by_class += [[name, *row] for row in classes(one)]
            worths.append([name, *worth(one)])
            if one.collapse.warning:
                print(f"{name}: {one.collapse.warning}")
    show(["router", "examples", "examples/s", "peak memory, GiB", "final loss"], costs)
    show(["router", "layer", "labels", "precision", "recall", "F1"], by_class)
    head = ["identity named, distinct paths", "layers over identity, points", "plain", "routed"]
    show(["router", *head, "difference, points", "layers"], worths)


if __name__ == "__main__":
    main(tyro.cli(Routers, description=__doc__))
