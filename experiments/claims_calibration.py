"""Error rates and power of verdicts about claims where the truth is known, before and after.

`python -m experiments.claims_calibration` draws trials with a known truth and decides them by
today's rules, and by those of before: Holm's method over effects alone, losses in a budget of their
own in any trial, dependence on the prompt uncorrected, Satterthwaite's degrees of freedom, equal
questions counted again, and no least size. `--tables` picks some of

- family: how often some statement of a trial is false;
- as-good: how often a path with fewer layers is called as good, and where that says nothing;
- overlap: the best block of a scan, tried on the rows that chose it, and on others;
- equal: questions, shots and prompts that are not as many as they look;
- size: what the least trial shows, and what one of the planned size does;
- power: the effects that are shown four times in five.
"""

import csv
import dataclasses
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tyro
from scipy.special import stdtrit

from cola_jax.deploy.verify.comparators import RANDOM
from cola_jax.deploy.verify.power import Components, check_size, plan
from cola_jax.deploy.verify.trial import PathScores, TaskTrial
from cola_jax.deploy.verify.verdict import Judged, decide, number_of_tests
from cola_jax.errors import InputError
from cola_jax.path import LayerPath
from cola_jax.question import Question, distinct
from cola_jax.scoring.statistics import ALPHA
from cola_jax.tasks import TaskConfig
from experiments.drawn_settings import MARGIN, SETTINGS, Setting
from experiments.drawn_trials import (
    CORRELATION,
    NOTHING_SHARED,
    DrawnTrials,
    PValues,
    Truth,
    decided,
    decided_before,
    draw_chosen,
    draw_trials,
    error_before,
    p_values_before,
    percent,
)
from experiments.tables import show
from tests import tiny

CLAIMS = (1, 2, 6, 10)
# Standard deviations of effects between prompts, by accuracy: chance of four options, between, and
# ceiling and floor, where 2 points and more are rare prompts in which all is different.
PROMPT_SDS = {
    0.25: (0.0, 0.02, 0.05),
    0.45: (0.0, 0.02, 0.05),
    0.98: (0.0, 0.005, 0.01, 0.02, 0.05),
    0.02: (0.0, 0.005, 0.01, 0.02, 0.05),
}
DESIGNS = ((100, 8), (200, 4), (267, 3), (200, 8), (400, 4), (533, 3))
BLOCKS = 59  # that a scan compares
PLAIN: LayerPath = (0, 1)
PATH: LayerPath = (0,)
OTHERS: list[LayerPath] = [(1,) * i for i in range(1, RANDOM + 1)]
Table = Literal["family", "as-good", "overlap", "equal", "size", "power"]


@dataclasses.dataclass(frozen=True)
class ClaimsCalibration:
    """Draw trials with a known truth, and decide them."""

    draws: int = 2000
    """Trials of each row."""
    tables: tuple[Table, ...] = get_args(Table)
    """Tables to make."""
    folder: str = "experiments/results"
    """Folder of the CSV files to write."""


def is_false(p_values: PValues, trials: DrawnTrials, truth: Truth) -> np.ndarray:
    """Return in which trials [draws] some statement is false: of an effect, a loss, dependence.

    `truth` is that of all claims. At a loss of the margin, "as good" is false and so is "better";
    without a difference, "better", "worse" and, unless prompts do differ, dependence on them.
    """
    if truth.effect:
        false = (p_values.effect <= ALPHA) & (trials.value > 0) | (p_values.loss <= ALPHA)
    else:
        false = p_values.effect <= ALPHA
        if not truth.prompt_sd:
            false |= p_values.depends <= ALPHA
    return np.any(false, axis=1)


def family(settings: ClaimsCalibration) -> Iterator[dict[str, str]]:
    """Count trials with a false statement."""
    truths = [
        Truth(accuracy, effect, sd)
        for accuracy, sds in PROMPT_SDS.items()
        for sd in sds
        for effect in (0.0, -MARGIN)
        if accuracy + effect > 0
    ]
    for prompts, n in itertools.product((3, 4, 8), (100, 400)):
        drawn = draw_trials(settings.draws, (n, prompts), max(CLAIMS), truths)
        for truth, trials in drawn.items():
            single = p_values_before(trials, MARGIN)
            for count in CLAIMS:
                yield from family_rows(truth, trials.take(count), single.take(count))


def family_rows(truth: Truth, trials: DrawnTrials, single: PValues) -> Iterator[dict[str, str]]:
    """Tabulate trials of one truth, whose claims have as many layers as the model, and fewer."""
    watched = is_false(single, trials, truth)
    before = is_false(decided_before(single), trials, truth)
    for shorter in (True,) if truth.effect else (False, True):
        after = decided(trials, MARGIN, single, watched, shorter=shorter)
        n, prompts = trials.size
        yield {
            "model, %": f"{100 * truth.accuracy:g}",
            "points between prompts": f"{100 * truth.prompt_sd:g}",
            "truth": "a loss of the margin" if truth.effect else "no difference",
            "fewer layers": "yes" if shorter else "no",
            "wordings": f"{prompts}",
            "questions": f"{n}",
            "claims": f"{trials.value.shape[1]}",
            "before: some statement is false, %": percent(before),
            "after, %": percent(is_false(after, trials, truth)),
        }


def as_good(settings: ClaimsCalibration) -> Iterator[dict[str, str]]:
    """Count paths that are called as good on fewer layers."""
    for place, setting in enumerate(SETTINGS):
        random = np.random.default_rng(place)
        outcomes = [list(called_as_good(setting, random)) for _ in range(settings.draws)]
        every = np.array(outcomes).swapaxes(0, 1)
        for margin, (before, after) in zip(setting.margins, every.swapaxes(1, 2), strict=True):
            yield {
                "model and path": setting.name,
                "questions": f"{setting.size[0]}",
                "wordings": f"{setting.size[1]}",
                "margin": f"{100 * margin:g}",
                "as good": setting.truth,
                "before: as good on fewer layers, %": percent(before),
                "after, %": percent(after),
            }


def called_as_good(setting: Setting, random: np.random.Generator) -> Iterator[tuple[bool, bool]]:
    """Draw a trial; yield for each margin whether a path is called as good before, and today."""
    every = setting.draw(random)
    model = next(every)
    path = next(every)
    drawn = DrawnTrials.of((path.astype(np.int8) - model)[None, None])
    task = None
    for margin in setting.margins:
        single = p_values_before(drawn, margin)
        if not single.loss <= ALPHA:  # nor is it today: see `decided`
            yield False, False
            continue
        if task is None:
            paths = [PLAIN, PATH, *OTHERS[: setting.random]]
            task = task_of(dict(zip(paths, (model, path, *every), strict=True)), setting.chance)
        blind = task.blind_to_loss(PATH, PLAIN, OTHERS[: setting.random], margin)
        (verdict,) = decide([Judged(task.effect(PATH, PLAIN), True, blind)], margin)
        is_as_good = verdict.outcome == "as good on fewer layers"
        yield bool(decided_before(single).as_good), is_as_good


def task_of(right: dict[LayerPath, np.ndarray], chance: float) -> TaskTrial:
    """Make the trial of a task from the verdicts [K, n] of its paths."""
    measured = {
        path: PathScores(each.T.astype(float), each.T, np.nan) for path, each in right.items()
    }
    return TaskTrial("drawn", measured, [], np.full(right[PLAIN].shape[1], chance))


def overlap(settings: ClaimsCalibration) -> Iterator[dict[str, str]]:
    """Choose the best of some blocks on n questions in one prompt, and try it.

    None has an effect, or each loses the margin.
    """
    for n, truth in itertools.product((100, 400), (Truth(0.45), Truth(0.45, -MARGIN))):
        chosen = draw_chosen(settings.draws, n, BLOCKS, truth)
        for where, trials in chosen.items():
            single = p_values_before(trials, MARGIN)
            after = decided(trials, MARGIN, single, is_false(single, trials, truth), shorter=True)
            yield {
                "questions": f"{n}",
                "truth of all blocks": "a loss of the margin" if truth.effect else "no difference",
                "tried on": where,
                "before: false, %": percent(is_false(decided_before(single), trials, truth)),
                "after, %": percent(is_false(after, trials, truth)),
                "after, by default": "judged" if where == NOTHING_SHARED else "refused",
            }


def equal(settings: ClaimsCalibration) -> Iterator[dict[str, str]]:
    """Tabulate questions, shots and prompts that are not as many as they look."""
    gained = DrawnTrials.of(np.ones((1, 1, 8, 30), np.int8))
    before = decided_before(p_values_before(gained, MARGIN)).effect.item()
    asked = [Question(f"{i}", "Which?", ("this", "that"), 0) for i in range(30)]
    yield {
        "case": "one question under 30 ids, in 8 wordings",
        "before": f"better, +100.0 points (p {before:.0e})",
        "after": refusal(len(distinct(asked)), 8),
    }
    yield {
        "case": "eight wordings of a task that shows its three solved examples in any order",
        "before": "refused: 0 other wordings",
        "after": f"refused: {wordings_of_three_shots()}",
    }
    for together, name in ((2, "pairs of wordings"), (8, "all wordings")):
        for n, count in itertools.product((100, 400), (1, 6)):
            none, loss = Truth(0.45, 0.0, 0.05, together), Truth(0.45, -MARGIN, 0.05, together)
            drawn = draw_trials(settings.draws, (n, 8), count, (none, loss))
            for truth, trials in drawn.items():
                single = p_values_before(trials, MARGIN)
                watched = is_false(single, trials, truth)
                after = decided(trials, MARGIN, single, watched, shorter=True)
                said = "a loss of the margin: as good or better" if truth.effect else (
                    "no difference: better or worse"
                )  # fmt: skip
                yield {
                    "case": f"effects correlate by {CORRELATION} in {name}, {n} x 8, "
                    f"claims: {count}; {said}, %",
                    "before": percent(is_false(decided_before(single), trials, truth)),
                    "after": percent(is_false(after, trials, truth)),
                }


def wordings_of_three_shots() -> str:
    """Ask for eight wordings of a task whose prompts show all its three solved examples."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sums.jsonl")
        rows = [{"prompt": f"{i} + 1 =", "answer": f"{i + 1}"} for i in range(4)]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows[3:]))
        shots = Path(folder, "shots.jsonl")
        shots.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:3]))
        config = TaskConfig(str(file), shots=3, shots_file=str(shots), scorer="exact", prompts=8)
        try:
            every = config.prepare_prompts(
                tiny.tokenizer(chat=False), context=400, stop_tokens=lambda: (1,)
            )
        except InputError as error:
            return re.sub(".* has (.* wordings?),.*", r"\1", str(error))
    return f"{len(every)} wordings"


def refusal(n: int, prompts: int) -> str:
    """Return what a trial of one longer path says of its size, "" for one that is large enough."""
    tests = number_of_tests(prompts, shorter=False)
    try:
        check_size(plan(MARGIN, prompts, tests=tests), MARGIN, n, prompts)
    except InputError as error:
        return f"refused: {str(error).partition(':')[0]}"
    return ""


SIZES = (  # margin, wordings, points between prompts
    (0.03, 16, 0.02), (0.03, 32, 0.03), (0.05, 8, 0.03), (0.05, 16, 0.03), (0.05, 16, 0.05),
    (0.10, 8, 0.03), (0.10, 8, 0.05), (0.10, 16, 0.05),
)  # fmt: skip


def size(settings: ClaimsCalibration) -> Iterator[dict[str, str]]:
    """Tabulate what the least trial shows, and what trials of the planned sizes do."""
    for prompts in (3, 8):
        truth = Truth(0.45, 0.0, 0.05)
        least = draw_trials(settings.draws, (20, prompts), 1, [truth])[truth]
        yield {
            "margin": "",
            "wordings": f"{prompts}",
            "points between prompts": "5",
            "claims": "1",
            "before": f"20 questions, which show {100 * shown_before(least, 1):.0f} points",
            "after": refusal(20, prompts),
            "shown there, %": "",
        }
    for (margin, prompts, sd), count in itertools.product(SIZES, (1, 6)):
        truth = Truth(0.45, -margin, sd)
        tests = count * number_of_tests(prompts, shorter=True)
        planned = plan(margin, prompts, components_of(truth), tests)
        (least,) = draw_trials(settings.draws, (20, 3), 1, [truth]).values()
        before = p_values_before(least, margin).effect <= ALPHA / count
        after = f"no number of questions: {planned.least_prompts} wordings or more"
        power = ""
        if planned.questions is not None:
            after = f"{planned.questions} questions"
            draws = draw_trials(settings.draws, (planned.questions, prompts), 1, [truth])
            power = percent(shown(draws[truth], ALPHA / tests))
        yield {
            "margin": f"{100 * margin:g}",
            "wordings": f"{prompts}",
            "points between prompts": f"{100 * sd:g}",
            "claims": f"{count}",
            "before": f"20 questions in 3 wordings, which show it in {percent(before)} %",
            "after": after,
            "shown there, %": power,
        }


def components_of(truth: Truth) -> Components:
    """Return the components of variance of a truth, by one large trial."""
    (trials,) = draw_trials(1, (20_000, 64), 1, [truth]).values()
    return Components.of(trials.crossed(0)[0])


def shown(trials: DrawnTrials, alpha: float) -> np.ndarray:
    """Return which trials [draws] of one claim show its effect at a two-sided `alpha`, today."""
    return np.array([trials.crossed(draw)[0].p <= alpha for draw in range(len(trials.value))])


def smallest_shown(trials: DrawnTrials, error: np.ndarray, df: np.ndarray, alpha: float) -> float:
    """Return the effect that is shown four times in five, of trials [draws, 1] without one."""
    needed = stdtrit(df, 1 - alpha / 2) * error - trials.value
    return float(np.quantile(needed, 0.8))


def shown_before(trials: DrawnTrials, claims: int) -> float:
    """Return the smallest effect that trials showed of each of some claims."""
    return smallest_shown(trials, *error_before(trials), ALPHA / claims)


def shown_after(trials: DrawnTrials, tests: int) -> float:
    """Return the smallest effect that trials show with a number of tests."""
    errors = [trials.crossed(draw)[0].error for draw in range(len(trials.value))]
    error, df = np.array(errors).T[:, :, None]
    return smallest_shown(trials, error, df, ALPHA / tests)


def power(settings: ClaimsCalibration) -> Iterator[dict[str, str]]:
    """Tabulate effects that are shown four times in five, of claims with as many layers."""
    truths = [Truth(0.45, 0.0, sd) for sd in (0.0, 0.03, 0.05)]
    for n, prompts in DESIGNS:
        drawn = draw_trials(settings.draws, (n, prompts), 1, truths)
        for (truth, trials), count in itertools.product(drawn.items(), (1, 6)):
            before = shown_before(trials, count)
            after = shown_after(trials, count * number_of_tests(prompts, shorter=False))
            yield {
                "points between prompts": f"{100 * truth.prompt_sd:g}",
                "wordings": f"{prompts}",
                "questions": f"{n}",
                "claims": f"{count}",
                "before: shown four times in five, points": f"{100 * before:.1f}",
                "after, points": f"{100 * after:.1f}",
                "lost, points": f"{100 * (after - before):.1f}",
            }


TABLES: dict[Table, Callable[[ClaimsCalibration], Iterator[dict[str, str]]]] = {
    "family": family,
    "as-good": as_good,
    "overlap": overlap,
    "equal": equal,
    "size": size,
    "power": power,
}


def main(settings: ClaimsCalibration) -> None:
    for name in settings.tables:
        rows = list(TABLES[name](settings))
        head = list(rows[0])
        file = Path(settings.folder, f"claims-calibration-{name}.csv")
        with file.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(
                [head, *([row[column] for column in head] for row in rows)]
            )
        show(head, [[row[column] for column in head] for row in rows])
        print()


if __name__ == "__main__":
    main(tyro.cli(ClaimsCalibration, description=__doc__))
