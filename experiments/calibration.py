"""Error rates of the figures of a report where the truth is known.

`python -m experiments.calibration` draws questions with and without an effect, and prints how often
each test rejects and each interval covers the truth. With `--run RUN`, a search for all options
(`--control all`), gold is also drawn anew over its stored searches, resampled for more questions
than it has: nothing is left to find, and no figure should be clear of zero. The smallest effect
that the run would show is drawn likewise. `--tables` picks some of the tables.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
import tyro
from scipy.stats import rankdata

from cola_jax.deploy.menu import FOLDS, folds_of
from cola_jax.deploy.rules import (
    ORACLE,
    MenuResults,
    Signals,
    cross_fit,
    fit_rules,
    right_by_rule,
)
from cola_jax.question import Question
from cola_jax.runs.run import Run
from cola_jax.scoring.net import Net
from cola_jax.scoring.preference import Preference, Targets, standardized
from cola_jax.scoring.saved_layers import SavedLayers
from cola_jax.scoring.statistics import Difference, Mean, Share
from cola_jax.strategies.reached import Case, Ways
from experiments.tables import points, show

SIZES = (12, 25, 50, 100)  # questions
LARGE = 400  # where a null that is wrong by little shows
TARGETS = 3  # that a question is searched for
MANY = 50_000  # questions that give the truth
SKILLS = {10: 0.57, 24: 1.42}  # log-odds of a reached target to be gold, by points of effect
P = 0.05
DRAWS, POWER = 200, 0.8  # of each effect, and their share with p <= 0.05 at the smallest
LARGEST = 6.0  # log-odds of reached targets beyond which no effect is tried
MENU, FEATURES = 5, 64  # paths of a menu, and features of a prompt
Table = Literal["level", "open", "coverage", "power", "kept", "menus", "run"]


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
    targets = searched(n, random)
    weight = by_score(targets, tau) * np.exp(skill * targets.hits)
    return targets.relabel(draw_golds(weight, random))


def searched(n: int, random: np.random.Generator) -> Targets:
    """Draw n questions whose targets are reached the easier, the shorter and likelier they are."""
    gaps = random.exponential(1.5, (n, TARGETS))
    lengths = random.lognormal(3.0, 0.6, (n, TARGETS))
    far = 1.2 * gaps + 0.5 * (rankdata(gaps, axis=1) - 2)
    far += 0.8 * standardized(lengths, gaps >= 0)
    hits = random.random((n, TARGETS)) < 1 / (1 + np.exp(far - 1.2))
    return Targets(hits, gaps, lengths)


def by_score(targets: Targets, tau: float) -> np.ndarray:
    """Return the chance [n, J] of each target to be gold, by score alone."""
    return Preference.of_score(tau).weights(targets)


def by_place(values: np.ndarray, *chances: float) -> np.ndarray:
    """Return chances [n, J] by the place of a value in its question, the least first.

    Values that are NaN, and those of further places, have none.
    """
    place = rankdata(np.where(np.isnan(values), np.inf, values), method="ordinal", axis=1)
    table = np.append(chances, np.zeros(values.shape[1]))
    return np.where(np.isnan(values), 0.0, table[place.astype(int) - 1])


def lengths_of(targets: Targets) -> np.ndarray:
    """Return the lengths [n, J] of targets, NaN where there is none."""
    return np.where(targets.there, targets.lengths, np.nan)


# how gold is drawn among targets, whatever searches reached
GOLDS: dict[str, Callable[[Targets], np.ndarray]] = {
    "at random": lambda t: by_score(t, 0.0),
    "by score, tau 1": lambda t: by_score(t, 1.0),
    "by score, tau 2": lambda t: by_score(t, 2.0),
    "by rank: 65, 23, 12 %": lambda t: by_place(t.gaps, 0.65, 0.23, 0.12),
    "by rank: 60, 10, 30 %": lambda t: by_place(t.gaps, 0.6, 0.1, 0.3),
    "by rank: 10, 60, 30 %": lambda t: by_place(t.gaps, 0.1, 0.6, 0.3),
    "by length, shorter ones e times as likely": lambda t: by_length(t, -1.0),
    "by length, longer ones e times as likely": lambda t: by_length(t, 1.0),
    "by length: 60, 10, 30 % from the shortest": lambda t: by_place(lengths_of(t), 0.6, 0.1, 0.3),
    "the shortest": lambda t: by_place(lengths_of(t), 1.0),
    "the longest": lambda t: by_place(-lengths_of(t), 1.0),
}


def by_length(targets: Targets, power: float) -> np.ndarray:
    """Return chances [n, J] by length, `power` a standard deviation on the log-odds."""
    odds = np.exp(power * standardized(targets.lengths, targets.there))
    return np.where(targets.there, odds, 0.0)


def draw_golds(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a target [n] of each question by weights [n, J]."""
    bounds = np.cumsum(weight, axis=1)
    return (random.random((len(weight), 1)) * bounds[:, -1:] > bounds).sum(axis=1)


def percent(mask: list[bool]) -> str:
    """Format a share of replicates."""
    return f"{100 * np.mean(mask):.1f} %"


def level(settings: Calibration) -> Iterator[list[str]]:
    """Count rejections without an effect, and undecided effects."""
    for name, golds in GOLDS.items():
        cells = []
        for n in (*SIZES, LARGE):
            random = np.random.default_rng(1)
            nets = []
            for _ in range(settings.replicates):
                targets = searched(n, random)
                gold = draw_golds(golds(targets), random)
                nets.append(Net.of(targets.relabel(gold), quick=True))
            cells.append(rejections(nets))
        yield [name, *cells]


def shows(net: Net) -> bool:
    """Return whether a report would show an effect, but for its sign."""
    return net.p <= P and not net.undecided


def rejections(nets: list[Net]) -> str:
    """Format the shares of draws that reject, and of those that are undecided."""
    return f"{percent(list(map(shows, nets)))} ({percent([net.undecided for net in nets])})"


def open_level(settings: Calibration) -> Iterator[list[str]]:
    """Count rejections without an effect on open questions whose gold the model prefers.

    It is gold in 84 %, by 2.7 nats in the mean.
    """
    for name, weighted in (("each answer alike", False), ("by log-probability", True)):
        cells = []
        for n in (*SIZES, LARGE):
            random = np.random.default_rng(6)
            nets = []
            for _ in range(settings.replicates):
                gaps = np.stack([np.zeros(n), random.exponential(2.7, n)], axis=1)
                hits = random.random((n, 2)) < 1 / (1 + np.exp(0.8 * gaps - 1.2))
                targets = Targets(hits, gaps, random.integers(1, 3, (n, 2)).astype(float))
                targets = targets.relabel(draw_golds(by_score(targets, 1.0), random))
                nets.append(Net.of(targets._replace(weighted=weighted), quick=True))
            cells.append(rejections(nets))
        yield [name, *cells]


def power(settings: Calibration) -> Iterator[list[str]]:
    """Count rejections with an effect."""
    for effect, skill in SKILLS.items():
        for tau in (0.0, 0.5, 1.0):
            truth = Net.of(drawn(MANY, tau, np.random.default_rng(0), skill), quick=True).value
            cells = []
            for n in SIZES:
                random = np.random.default_rng(2)
                tests = [
                    shows(Net.of(drawn(n, tau, random, skill), quick=True))
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
        for label, golds in {
            "second choice called gold": by_place(targets.gaps, 1.0),
            "third choice called gold": by_place(targets.gaps, 0.0, 1.0),
            "shortest called gold": by_place(lengths_of(targets), 1.0),
            "longest called gold": by_place(-lengths_of(targets), 1.0),
        }.items():
            called = Net.of(targets.relabel(golds.argmax(axis=1)))
            yield [label, name, f"{called.n}", "1", points(called), "", ""]
        for label, golds in GOLDS.items():
            for n in (len(targets.hits), LARGE):
                nets = []
                for _ in range(count):
                    some = targets
                    if n == LARGE:
                        some = targets.take(random.integers(len(targets.hits), size=n))
                    nets.append(Net.of(some.relabel(draw_golds(golds(some), random)), quick=True))
                yield [f"gold {label}", name, f"{n}", *summed(nets)]
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
    weight = targets.preference().weights(targets)
    random, low, high, smallest = np.random.default_rng(0), 0.0, LARGEST, []
    for _ in range(6):
        middle = (low + high) / 2
        golds = (draw_golds(weight * np.exp(middle * targets.hits), random) for _ in range(DRAWS))
        nets = [Net.of(targets.relabel(gold), quick=True) for gold in golds]
        if np.mean(list(map(shows, nets))) >= POWER:
            high, smallest = middle, nets
        else:
            low = middle
    return smallest


def menus(settings: Calibration) -> Iterator[list[str]]:
    """Tabulate the gain of menu rules over the first path on features of noise."""
    for n in (100, 300):
        folds = folds_of([Question(str(i), f"question {i}") for i in range(n)])
        gains, fitted, chosen = [], [], []
        for seed in range(min(settings.replicates, 60)):
            random = np.random.default_rng(seed)
            right = random.random((n, MENU)) < 0.5
            drawn_signals = Signals(right.astype(object), random.normal(size=right.shape))
            known = MenuResults(right, drawn_signals, random.normal(size=(n, FEATURES)))
            crossed = cross_fit(known, folds, [range(MENU)] * FOLDS)
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
    return [f"{len(nets)}", points(value), percent(list(map(shows, nets))), undecided]


def summed_kept(every: list[SavedLayers]) -> list[str]:
    """Format the layers kept of many draws."""
    tested = [figure for figure in every if figure.p == figure.p]
    value = Mean.of(np.array([figure.difference for figure in tested]))
    cells = f"{value.value:+.2f} layers ({value.interval[0]:+.2f} to {value.interval[1]:+.2f})"
    return [f"{len(tested)}", cells, percent([figure.p <= P for figure in tested]), ""]


TABLES: dict[Table, tuple[Callable[[Calibration], Iterator[list[str]]], list[str]]] = {
    "level": (level, ["gold", *(f"n = {n}" for n in (*SIZES, LARGE))]),
    "open": (open_level, ["open questions", *(f"n = {n}" for n in (*SIZES, LARGE))]),
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
