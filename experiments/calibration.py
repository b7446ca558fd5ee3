"""Error rates of the figures of a report where the truth is known.

`python -m experiments.calibration` draws questions with and without an effect, and prints how often
each test rejects and each interval covers the truth. With `--run RUN`, a search for all options
(`--control all`), gold is also drawn anew over its stored searches: nothing is left
to find, and no figure should be clear of zero. The smallest effect that the run would show is
drawn likewise. `--tables` picks some of the tables.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
import tyro

from cola_jax.deploy.menu import FOLDS, folds_of
from cola_jax.deploy.rules import (
    ORACLE,
    MenuResults,
    Signals,
    cross_fit,
    fit_rules,
    right_by_rule,
)
from cola_jax.runs.run import Run
from cola_jax.scoring.preference import Net, SavedLayers, Targets, weights
from cola_jax.scoring.statistics import Difference, Mean, Share
from cola_jax.strategies.reached import Case, Ways
from experiments.paper.results import points, show

SIZES = (12, 25, 50, 100)  # questions
TAUS = (0.0, 1.0, 2.0)
TARGETS = 3  # that a question is searched for
MANY = 50_000  # questions that give the truth
SKILLS = {10: 0.49, 24: 1.25}  # log-odds of a reached target to be gold, by points of effect
P = 0.05
DRAWS, POWER = 200, 0.8  # of each effect, and their share with p <= 0.05 at the smallest
LARGEST = 6.0  # log-odds of reached targets beyond which no effect is tried
MENU, FEATURES = 5, 64  # paths of a menu, and features of a prompt
Table = Literal["level", "coverage", "power", "kept", "menus", "run"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Draw questions with a known truth, and repeat the figures of a report."""

    run: str | None = None
    """Run directory of a search for all options."""
    replicates: int = 1000
    """Draws of each row; of intervals at most 300."""
    tables: tuple[Table, ...] = get_args(Table)


def drawn(n: int, tau: float, random: np.random.Generator, skill: float = 0.0) -> Targets:
    """Draw n questions whose gold is drawn by preference, and reached by distance.

    Preferred targets are reached more easily, and so is gold, without any skill. With skill, a
    target that is reached is more likely to be gold.
    """
    gaps = random.exponential(1.5, (n, TARGETS))
    hits = random.random((n, TARGETS)) < 1 / (1 + np.exp(1.2 * gaps - 1.2))
    return Targets(hits, gaps).relabel(
        draw_golds(weights(gaps, tau) * np.exp(skill * hits), random)
    )


def draw_golds(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a target [n] of each question by weights [n, J]."""
    bounds = np.cumsum(weight, axis=1)
    return (random.random((len(weight), 1)) * bounds[:, -1:] > bounds).sum(axis=1)


def percent(mask: list[bool]) -> str:
    """Format a share of replicates."""
    return f"{100 * np.mean(mask):.1f} %"


def level(settings: Calibration) -> Iterator[list[str]]:
    """Count rejections without an effect, and undecided effects."""
    for tau in TAUS:
        cells = []
        for n in SIZES:
            random = np.random.default_rng(1)
            nets = [Net.of(drawn(n, tau, random), quick=True) for _ in range(settings.replicates)]
            undecided = [net.undecided for net in nets]
            cells.append(f"{percent([net.p <= P for net in nets])} ({percent(undecided)})")
        yield [f"{tau:g}", *cells]


def power(settings: Calibration) -> Iterator[list[str]]:
    """Count rejections with an effect."""
    for effect, skill in SKILLS.items():
        for tau in (0.0, 0.5, 1.0):
            truth = Net.of(drawn(MANY, tau, np.random.default_rng(0), skill), quick=True).value
            cells = []
            for n in SIZES:
                random = np.random.default_rng(2)
                tests = [
                    Net.of(drawn(n, tau, random, skill), quick=True).p <= P
                    for _ in range(settings.replicates)
                ]
                cells.append(percent(tests))
            yield [f"{effect}", f"{tau:g}", f"{100 * truth:+.1f}", *cells]


def covered(
    make: Callable[[np.random.Generator], tuple[float, float]], truth: float, replicates: int
) -> str:
    """Return the share of intervals that cover the truth."""
    random = np.random.default_rng(3)
    intervals = [
        (low, high) for low, high in (make(random) for _ in range(replicates)) if low == low
    ]
    if not intervals:
        return "none given"
    inside = np.mean([low <= truth <= high for low, high in intervals])
    missing = replicates - len(intervals)
    return f"{100 * inside:.1f} %" + (f" (of {len(intervals)})" if missing else "")


def coverage(settings: Calibration) -> Iterator[list[str]]:
    """Tabulate the coverage of intervals."""
    count = min(settings.replicates, 300)

    def row(
        name: str, truth: float, make: Callable[[int, np.random.Generator], tuple[float, float]]
    ) -> list[str]:
        return [name, f"{truth:+.3f}"] + [
            covered(lambda random, n=n: make(n, random), truth, count) for n in SIZES
        ]

    for tau in (0.0, 0.5, 1.0):
        for effect, skill in {0: 0.0, **SKILLS}.items():
            truth = Net.of(drawn(MANY, tau, np.random.default_rng(0), skill), quick=True).value
            yield row(
                f"net, tau {tau:g}, {effect} points", truth,
                lambda n, random, t=tau, s=skill: Net.of(drawn(n, t, random, s)).interval,
            )  # fmt: skip
    for skill in (0.0, SKILLS[24]):
        many = drawn(MANY, 0.0, np.random.default_rng(0), skill)
        yield row(
            "net, unweighted", Net.of(many._replace(weighted=False), quick=True).value,
            lambda n, random, skill=skill: Net.of(
                drawn(n, 0.0, random, skill)._replace(weighted=False)
            ).interval,
        )  # fmt: skip
    for effect in (0.0, 2.0):
        yield row(
            "layers kept", effect, lambda n, random, e=effect: kept(n, random, e).interval
        )  # fmt: skip
    yield row("mean", 1.5, lambda n, random: Mean.of(random.exponential(1.5, n)).interval)
    yield row("share", 0.8, lambda n, random: Share.of(random.random(n) < 0.8).interval)
    yield row(
        "difference of paired shares", 0.2,
        lambda n, random: Difference.of(random.random(n) < 0.6, random.random(n) < 0.4).interval,
    )  # fmt: skip


def kept(n: int, random: np.random.Generator, effect: float) -> SavedLayers:
    """Draw layers that are kept: sure answers are right more often, and kept on fewer layers."""
    margin = random.exponential(1.0, n)
    right = random.random(n) < 1 / (1 + np.exp(0.5 - margin))
    saved = np.rint(3 + 2 * np.minimum(margin, 2) + effect * right + random.normal(0, 1.5, n))
    return SavedLayers.of(saved.clip(0), right, margin)


def kept_level(settings: Calibration) -> Iterator[list[str]]:
    """Count rejections without an effect on layers kept."""
    random = np.random.default_rng(4)
    for n in SIZES:
        every = [kept(n, random, 0.0) for _ in range(settings.replicates)]
        tested = [kept_by for kept_by in every if kept_by.p == kept_by.p]
        cell = percent([kept_by.p <= P for kept_by in tested]) if tested else "none given"
        yield ["layers kept, same confidence", f"{n}", f"{len(tested)}", cell]


def relabelled_run(settings: Calibration) -> Iterator[list[str]]:
    """Tabulate a run whose gold is another of the searched options."""
    assert settings.run is not None
    run = Run(settings.run)
    ways = run.ways()
    layers = run.facts().num_layers
    random, count = np.random.default_rng(5), settings.replicates
    for name in ways.names:
        _, targets = ways.targets(name)
        second = Net.of(targets.relabel(np.nanargmin(targets.gaps, axis=1)))
        yield ["second choice called gold", name, f"{second.n}", "1", points(second), "", ""]
        for tau in TAUS:
            weight = weights(targets.gaps, tau)
            nets = [
                Net.of(targets.relabel(draw_golds(weight, random)), quick=True)
                for _ in range(count)
            ]
            yield [f"gold by preference, tau {tau:g}", name, f"{len(targets.hits)}", *summed(nets)]
        if shown := smallest_effect(targets):
            label = "smallest effect shown 4 times in 5"
            yield [label, name, f"{len(targets.hits)}", *summed(shown)]
    whole = [case for case in ways.cases if set(range(case.scores.shape[1])) <= set(case.searches)]
    for name in ways.names:
        nets, kepts = [], []
        for _ in range(count):
            golds = [
                case._replace(gold=int(random.integers(case.scores.shape[1]))) for case in whole
            ]
            again = ways._replace(cases=golds)
            nets.append(Net.of(again.targets(name)[1], quick=True))
            kepts.append(again.kept(ways.names[0], layers))
        yield ["gold at random, mixed wordings", name, f"{len(whole)}", *summed(nets)]
        if name == ways.names[0]:
            yield ["layers kept, gold at random", name, f"{len(whole)}", *summed_kept(kepts)]
    name = ways.names[0]
    own = [own_as_gold(ways, whole, random).kept(name, layers) for _ in range(count)]
    yield ["layers kept, own wrong answer as gold", name, f"{len(whole)}", *summed_kept(own)]


def smallest_effect(targets: Targets) -> list[Net]:
    """Return draws of the smallest effect with p <= 0.05 in four of five draws; [] for none.

    Gold is drawn by the model's preference, times the odds of targets that were reached, which are
    bisected.
    """
    weight = weights(targets.gaps, targets.preference().tau)
    random, low, high, smallest = np.random.default_rng(0), 0.0, LARGEST, []
    for _ in range(6):
        middle = (low + high) / 2
        golds = (draw_golds(weight * np.exp(middle * targets.hits), random) for _ in range(DRAWS))
        nets = [Net.of(targets.relabel(gold), quick=True) for gold in golds]
        if np.mean([net.p <= P for net in nets]) >= POWER:
            high, smallest = middle, nets
        else:
            low = middle
    return smallest


def menus(settings: Calibration) -> Iterator[list[str]]:
    """Tabulate the gain of menu rules over the first path on features of noise."""
    for n in (100, 300):
        gains, fitted, chosen = [], [], []
        for seed in range(min(settings.replicates, 60)):
            random = np.random.default_rng(seed)
            right = random.random((n, MENU)) < 0.5
            drawn_signals = Signals(right.astype(object), random.normal(size=right.shape))
            known = MenuResults(right, drawn_signals, random.normal(size=(n, FEATURES)))
            crossed = cross_fit(known, folds_of([str(i) for i in range(n)]), [range(MENU)] * FOLDS)
            own = right_by_rule(fit_rules(known), known)
            crossed.pop(ORACLE)
            before = right[:, 0].mean()
            gains.append(crossed["selector"].mean() - before)
            fitted.append(own["selector"].mean() - before)
            chosen.append(max(crossed, key=lambda rule: crossed[rule].mean()) == "selector")
        yield [f"{n}", points(Mean.of(np.array(fitted))), points(Mean.of(np.array(gains))),
               percent(chosen)]  # fmt: skip


def own_as_gold(ways: Ways, whole: list[Case], random: np.random.Generator) -> Ways:
    """Make the model's own wrong answer gold on a random half of the questions."""
    half = random.random(len(whole)) < 0.5
    cases = [
        case._replace(gold=case.answers[0]) if own else case
        for case, own in zip(whole, half, strict=True)
    ]
    return ways._replace(cases=cases)


def summed(nets: list[Net]) -> list[str]:
    """Format the effects of many draws."""
    undecided = percent([net.undecided for net in nets])
    value = Mean.of(np.array([net.value for net in nets]))
    return [f"{len(nets)}", points(value), percent([net.p <= P for net in nets]), undecided]


def summed_kept(every: list[SavedLayers]) -> list[str]:
    """Format the layers kept of many draws."""
    tested = [figure for figure in every if figure.p == figure.p]
    value = Mean.of(np.array([figure.difference for figure in tested]))
    cells = f"{value.value:+.2f} layers ({value.interval[0]:+.2f} to {value.interval[1]:+.2f})"
    return [f"{len(tested)}", cells, percent([figure.p <= P for figure in tested]), ""]


TABLES: dict[Table, tuple[Callable[[Calibration], Iterator[list[str]]], list[str]]] = {
    "level": (level, ["tau", *(f"n = {n}" for n in SIZES)]),
    "power": (power, ["points", "tau", "true effect", *(f"n = {n}" for n in SIZES)]),
    "coverage": (coverage, ["interval", "truth", *(f"n = {n}" for n in SIZES)]),
    "kept": (kept_level, ["figure", "questions", "tested", "p <= 0.05"]),
    "menus": (
        menus,
        ["questions", "selector, on its own questions", "cross-fitted", "selector chosen"],
    ),
    "run": (
        relabelled_run,
        ["gold", "counted", "questions", "draws", "effect", "p <= 0.05", "undecided"],
    ),
}


def main(settings: Calibration) -> None:
    for name in settings.tables:
        if name == "run" and settings.run is None:
            continue
        make, head = TABLES[name]
        print(f"\n{make.__doc__}\n")
        show(head, make(settings))


if __name__ == "__main__":
    main(tyro.cli(Calibration, description=__doc__))
