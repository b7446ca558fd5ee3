"""Error rates of what `cola scan`, `static`, `menu` and `distill` choose, where the truth is known.

`python -m experiments.choice_calibration` draws verdicts of a model, and of blocks, paths or rules
that change a third of its answers, and writes `experiments/results/choice-calibration.csv`: how
often a scan says "Shown", and how often another than the model is recommended, without an effect
and with one of a single block, path or rule. Before: what was chosen was recommended, and a scan
drew questions alone. The printed effect is that of the best block in points: before on the
questions that chose it, now on those of the other half.
"""

import csv
import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import tyro
from scipy.stats import norm

from cola_jax.deploy import scan
from cola_jax.runs.estimates import MODEL
from cola_jax.runs.recommendation import Recommendation
from cola_jax.runs.tries import Try
from cola_jax.scoring.statistics import ALPHA
from experiments.drawn_trials import percent
from experiments.tables import show

BLOCKS = 59  # of 30 layers, each skipped or repeated
QUESTIONS = 300
SCANS = (
    *((BLOCKS, prompts, sd, effect) for effect in (0.0, 0.05, 0.1) for prompts in (4, 16, 32)
      for sd in (0.0, 0.05)),
    (900, 4, 0.05, 0.0),
)  # fmt: skip
DESIGNS = ((1, 0.0), (8, 0.0), (8, 0.05))  # prompts, sd between them
HELD_OUT, VALIDATION, TRAINING = 200, 100, 200  # questions
CHANGED = 0.34  # share of the answers that another path changes, before its effect
SAME_QUESTION = 0.5  # how changes correlate between the prompts of a question
MENU = 5  # paths
HEAD = (
    "command", "candidates", "prompts", "points between prompts", "effect, points",
    "before, %", "now, %", "in these prompts, %", "untrue of these, %",
    "printed before, points", "printed now, points",
)  # fmt: skip
Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ChoiceCalibration:
    """Draw what is chosen with a known truth."""

    draws: int = 2000
    """Draws of each row without an effect, where it is measured once."""
    power_draws: int = 500
    """Draws of all others."""
    flips: int = 500
    """Flips of the signs in each test of a scan."""
    output: str = "experiments/results/choice-calibration.csv"
    """CSV file to write."""

    def number(self, effect: float, times: int = 1) -> int:
        """Return the draws of a row."""
        return self.power_draws if effect or times > 1 else self.draws


def changes(
    means: np.ndarray, plain: np.ndarray, random: np.random.Generator, same: float = 0.0
) -> np.ndarray:
    """Change right answers `plain` [..., n, K]; their share grows by `means`, of the same shape."""
    own = random.standard_normal(means.shape, np.float32)
    if same:
        question = random.standard_normal((*means.shape[:-1], 1), np.float32)
        own = np.sqrt(same) * question + np.sqrt(1 - same) * own
    # of wrong answers more are changed than of right ones
    rate = np.clip(CHANGED / 2 + np.where(plain, -means, means), 0.001, 0.999)
    return np.where(own < norm.ppf(rate), ~plain, plain)


def scan_row(
    settings: ChoiceCalibration, blocks: int, prompts: int, sd: float, effect: float
) -> Row:
    """Scan blocks, of which the first has the effect, and the others none over all prompts."""
    random = np.random.default_rng([blocks, prompts, round(1000 * sd), round(1000 * effect)])
    true = np.zeros(blocks)
    true[0] = effect
    ids = [f"q{i}" for i in range(QUESTIONS)]
    before, now, here, untrue, printed_before, printed_now = np.zeros((6, settings.number(effect)))
    for draw in range(settings.number(effect)):
        asked = random.integers(0, prompts, QUESTIONS)
        mean = true + sd * random.standard_normal((prompts, blocks))
        u = random.random((QUESTIONS, blocks), np.float32)
        gain = mean[asked]
        # at 50 % accuracy, half of the changes are of wrong answers
        right = (u < (CHANGED / 2 + gain) / 2).astype(np.int8) - (u > 1 - (CHANGED / 2 - gain) / 2)
        best = int(right.mean(axis=0).argmax())
        named = 0 if effect else best  # which "Shown" is counted
        of_questions = scan.flip_test(right, added=2).p
        is_here = right[:, named].sum() > 0 and of_questions[named] < ALPHA
        before[draw] = is_here
        if prompts < scan.DRAWN:
            here[draw] = is_here
            untrue[draw] = is_here and gain[:, named].mean() <= 0
        else:
            p = scan.flip_test(scan.units_of(right, asked), added=2).p
            now[draw] = right[:, named].sum() > 0 and p[named] < ALPHA
        chosen = scan.chosen_elsewhere(right, scan.halves(ids, asked))
        printed_before[draw] = right[:, best].mean()
        printed_now[draw] = right[np.arange(QUESTIONS), chosen].mean()
    few = prompts < scan.DRAWN
    return (
        "scan", f"{blocks}", f"{prompts}", f"{100 * sd:.0f}", f"{100 * effect:.0f}",
        percent(before), "0.0 (never)" if few else percent(now), percent(here) if few else "",
        percent(untrue) if few else "", points(printed_before), points(printed_now),
    )  # fmt: skip


def path_draw(
    paths: int, prompts: int, sd: float, effect: float, earlier: int, random: np.random.Generator
) -> tuple[bool, bool]:
    """Choose one of paths on validation questions; return whether it is recommended."""
    own = np.zeros((paths, 1, 1))
    own[0] = effect
    of_prompts = sd * random.standard_normal((paths, 1, 4))  # in which paths are chosen
    asked = random.integers(0, 4, VALIDATION)
    plain = random.random((VALIDATION, 1)) < 0.5
    means = (own + of_prompts)[:, 0, asked][..., None]
    validated = changes(means, plain, random).mean(axis=(1, 2))
    best = int(validated.argmax())
    is_better = validated[best] > plain.mean()
    found = f"path {best}" if is_better else MODEL
    recommended = recommend(paths, prompts, sd, own, found, earlier, random)
    return bool(is_better), recommended != MODEL


def rule_draw(
    rules: int, prompts: int, sd: float, effect: float, earlier: int, random: np.random.Generator
) -> tuple[bool, bool]:
    """Choose one of rules on training questions: the best path of a menu, or a path for each."""
    own = np.zeros((rules, 1, 1))
    own[0] = effect
    plain = random.random((TRAINING, 1)) < 0.5
    means = np.zeros((MENU - 1, TRAINING, 1))
    menu = np.concatenate([plain[None], changes(means, plain, random)])[..., 0]  # [k, n]
    single = int(menu.mean(axis=1).argmax())
    trained = [menu[single].mean()]
    for _ in range(rules - 1):  # of which none knows more than the others
        trained.append(menu[random.integers(0, MENU, TRAINING), np.arange(TRAINING)].mean())
    best = int(np.argmax(np.array(trained) + own[:, 0, 0]))
    recommended = recommend(rules, prompts, sd, own, f"path {best}", earlier, random)
    return bool(best or single), recommended != MODEL


def router_draw(
    routers: int, prompts: int, sd: float, effect: float, earlier: int, random: np.random.Generator
) -> tuple[bool, bool]:
    """Measure a router, which was the result whatever it was worth."""
    own = np.full((routers, 1, 1), effect)
    return True, recommend(routers, prompts, sd, own, "path 0", earlier, random) != MODEL


def recommend(
    candidates: int,
    prompts: int,
    sd: float,
    own: np.ndarray,
    found: str,
    earlier: int,
    random: np.random.Generator,
) -> str:
    """Measure candidates with effects `own` [C, 1, 1] on held-out questions in other prompts."""
    plain = np.repeat(random.random((HELD_OUT, 1)) < 0.5, prompts, axis=1)
    means = own + sd * random.standard_normal((candidates, 1, prompts))
    means = np.broadcast_to(means, (candidates, HELD_OUT, prompts))
    right = changes(means, plain, random, SAME_QUESTION)
    tries = [Try("", "measured", "", "", "", f"{i}", ()) for i in range(earlier)]
    return Recommendation(
        {f"path {c}": right[c] for c in range(candidates)}, plain, found, tries
    ).recommended


def choice_row(
    settings: ChoiceCalibration,
    command: str,
    draw: Callable[..., tuple[bool, bool]],
    candidates: int,
    prompts: int,
    sd: float,
    effect: float,
    times: int = 1,
) -> Row:
    """Choose, and measure, so many times; count whether another than the model is recommended."""
    key = [candidates, prompts, round(1000 * sd), round(1000 * effect), times, len(command)]
    random = np.random.default_rng(key)
    each = functools.partial(draw, candidates, prompts, sd, effect)
    every = [
        np.any([each(earlier, random) for earlier in range(times)], axis=0)
        for _ in range(settings.number(effect, times))
    ]
    before, now = np.array(every).T
    name = command if times == 1 else f"{command}, {times} times on the same questions"
    cells = name, f"{candidates}", f"{prompts}", f"{100 * sd:.0f}", f"{100 * effect:.0f}"
    return (*cells, percent(before), percent(now), "", "", "", "")


def rows(settings: ChoiceCalibration) -> Iterator[Row]:
    """Tabulate all designs."""
    for effect in (0.0, 0.05, 0.1):
        for design in DESIGNS:
            yield choice_row(settings, "static", path_draw, 8, *design, effect)
            yield choice_row(settings, "menu", rule_draw, 4, *design, effect)
            yield choice_row(settings, "distill", router_draw, 1, *design, effect)
    yield choice_row(settings, "static", path_draw, 3, 8, 0.05, 0.0, times=4)
    for design in SCANS:
        yield scan_row(settings, *design)


def points(values: np.ndarray) -> str:
    """Format a mean difference."""
    return f"{100 * values.mean():+.1f}"


def main(settings: ChoiceCalibration) -> None:
    scan.FLIPS = scan.BATCH = settings.flips
    table = list(rows(settings))
    with open(settings.output, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *table])
    show(HEAD, table)


if __name__ == "__main__":
    main(tyro.cli(ChoiceCalibration, description=__doc__))
