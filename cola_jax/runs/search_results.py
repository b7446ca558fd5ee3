"""Estimates of searches: what they reached beside what was expected, and at what cost."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.layer_costs import LayerCosts
from cola_jax.runs.chosen_on import PRIOR_CHOSEN_ON, ChosenOn
from cola_jax.runs.counts import COUNTED, count_again, count_evaluations
from cola_jax.runs.estimates import (
    BEFORE,
    BEYOND,
    EXPECTED,
    FOUND,
    PREFERENCES,
    PRIOR_EDITS,
    PRIOR_QUESTIONS,
    REACHED,
    SAMPLED,
    UNDECIDED,
    UNKNOWN,
    UNSCORED,
    Estimate,
)
from cola_jax.runs.facts import Facts
from cola_jax.runs.layer_use import (
    CONTROLS,
    CORRECTED,
    RETAINED,
    depth_of,
    group_searches,
    is_false,
    is_null,
    is_true,
    path_lengths,
)
from cola_jax.scoring.net import Net
from cola_jax.scoring.preference import Preference
from cola_jax.scoring.saved_layers import SavedLayers
from cola_jax.scoring.statistics import ALPHA, Share, Z, holm, mean
from cola_jax.strategies.reached import AGAIN, AskedAgain, Case, Ways, share

# columns of the questions of a search
COLUMNS = ["question", "options", "gold", "baseline", "baseline_answer", "baseline_scores"]
COLUMNS += ["baseline_logprobs", "again_answers", "best", "again", "controls", "confirmed"]
COLUMNS += ["evaluations"]
EVALUATED = ["question", "path", "verdict", "finite", "node", "truncated", "control", "tokens"]
GROUPS = {RETAINED: "right before (C→C)", CORRECTED: "wrong before (W→C)"}
ASKED_AGAIN = ", its best path asked again"  # end of names
SHORTENED = "C→C: right before, also on fewer layers"
NET = "gold minus a wrong answer that is preferred as much"
AFTER = "right on some path that was tried"
SPENT = "evaluations, each path and prompt once"


def ways_of(questions: pa.Table, facts: Facts) -> Ways:
    """Tell what the searches of a run reached, from its questions with `COLUMNS`."""
    graded = questions.filter(pc.field("baseline").is_valid())
    rows = (row for batch in graded.to_batches() for row in batch.to_pylist())
    cases = [
        Case.of(row, open=facts.is_open, log_likelihoods=facts.log_likelihoods, costs=facts.costs)
        for row in rows
    ]
    combined = bool(facts.settings.get("robust"))  # of an earlier version
    return Ways.of(cases, open=facts.is_open, combined=combined)


def search_estimates(
    ways: Ways, num_layers: int, preference: Preference | None = None
) -> list[Estimate]:
    """Compare searches with their controls.

    The intervals of what is tested are simultaneous. The preference is of another run of the model;
    by default fitted to these questions. Questions whose baseline is ungraded are excluded.
    """
    alpha = ALPHA / (len(ways.names) + ways.weighted)
    fitted: dict[str, Preference] = {}
    nets: dict[str, Net] = {}
    for way in ways.names:
        targets = ways.targets(way)[1]
        fitted[way] = preference or targets.preference()
        nets[way] = Net.of(targets, fitted[way], alpha=alpha)
    first = ways.names[0]
    kept = [ways.kept(first, num_layers, alpha)] if ways.weighted else []
    notes = {way: limit_of(net, weighted=ways.weighted) for way, net in nets.items()}
    p_values = [math.nan if notes[way] else net.p for way, net in nets.items()]
    p_values += [each.p for each in kept]
    corrected = iter(holm(p_values))
    wrong = [case for case in ways.asked(first) if case.before == "wrong"]
    found = share(case.searches[case.gold].best is not None for case in wrong)
    reached = share(search.best is not None for case in wrong for search in case.controls)
    estimates = [
        Estimate.of(BEFORE, share(case.baseline for case in ways.cases)),
        Estimate.of(FOUND, found),
    ]
    for way, net in nets.items():
        suffix = "" if way == first else ASKED_AGAIN
        estimates += net_estimates(net, suffix, next(corrected), notes[way])
    estimates += sampling_estimates(ways.compared(first).cases)
    net = nets[first]
    if ways.weighted and net.n:
        estimates += preference_estimates(fitted[first])
    for each in kept:
        estimates += kept_estimates(each, next(corrected))
    estimates.append(Estimate.of("wrong answers that searches reached", reached, control=True))
    without = sum(not case.controls for case in wrong)
    unscored = len(wrong) - without - net.n
    if without and reached.n:
        estimates.append(Estimate.count("wrong before, without a control", without))
    if unscored:
        estimates.append(Estimate.count(UNSCORED, unscored))
    if AGAIN in ways.names:
        estimates += again_estimates(AskedAgain.of(ways, num_layers))
    return estimates


def limit_of(net: Net, *, weighted: bool) -> str:
    """Return the note of a difference on what limits it, "" for nothing."""
    if net.undecided:
        return UNDECIDED
    return "" if weighted else UNKNOWN


def net_estimates(net: Net, way: str, corrected: float, note: str) -> Iterator[Estimate]:
    """Yield what was reached in a way of counting, what was expected, and the difference.

    The note of the difference says what limits it.
    """
    if not net.n:
        return
    low, high = net.by_chance
    yield Estimate.of(REACHED + way, Share(net.reached, net.n))
    yield Estimate(
        EXPECTED + way,
        value=net.expected / net.n,
        low=low / net.n,
        high=high / net.n,
        n=net.n,
        control=True,
    )
    lowest, highest = net.difference_interval
    yield Estimate(
        BEYOND + way,
        value=net.difference,
        unit="points",
        low=math.nan if net.undecided else lowest,
        high=math.nan if net.undecided else highest,
        p=math.nan if net.undecided else net.p,
        corrected=corrected,
        n=net.n,
        note=note,
    )
    if not math.isnan(net.interval[0]):
        low, high = net.interval
        yield Estimate(NET + way, value=net.value, unit="points", low=low, high=high, n=net.n)


def sampling_estimates(cases: Sequence[Case]) -> Iterator[Estimate]:
    """Yield on how many questions a sample of the model is right, as many as paths were evaluated.

    The share is exact, 1 - (1 - p)^n by the probability p of gold as first asked: nothing is drawn.
    """
    sampled = np.array([case.sampled() for case in cases if not math.isnan(case.chance)])
    if len(sampled):
        yield Estimate(SAMPLED, value=mean(sampled), n=len(sampled), control=True)


def preference_estimates(preference: Preference) -> Iterator[Estimate]:
    """Yield how well each covariate that tells targets apart predicts which of them is gold."""
    for (name, unit), value, error in zip(PREFERENCES.items(), *preference, strict=True):
        if unit == "per score" or math.isfinite(error):
            reach = Z * error
            yield Estimate(name, value=value, unit=unit, low=value - reach, high=value + reach)


def kept_estimates(kept: SavedLayers, corrected: float) -> Iterator[Estimate]:
    """Yield the layers saved where the model's answer is kept, whether right or wrong."""
    if not kept.n_wrong:  # no search for such an answer
        return
    yield Estimate("saved on right answers", value=kept.right, unit="layers", n=kept.n_right)
    yield Estimate(
        "saved on own wrong answers",
        value=kept.wrong,
        unit="layers",
        n=kept.n_wrong,
        control=True,
    )
    low, high = kept.interval
    yield Estimate(
        "difference, equal margin",
        value=kept.difference,
        unit="layers more",
        low=low,
        high=high,
        p=kept.p,
        corrected=corrected,
        n=kept.n_right + kept.n_wrong,
    )


def again_estimates(again: AskedAgain) -> Iterator[Estimate]:
    """Yield the answers of the model and of best paths in other wordings of their questions."""
    yield Estimate.of("model's answer in another wording: the same", again.agreement)
    yield Estimate.of("right in all wordings before", again.before)
    yield Estimate.of("its best path right in all wordings", again.held)
    yield Estimate.of("control: best path, likewise", again.held_control, control=True)
    yield Estimate.of("right in some wordings, then its best path in all", again.mixed)
    yield Estimate.of("right in all, and its best path on fewer layers too", again.shortened)


def run_estimates(
    ways: Ways,
    questions: pa.Table,
    rows: pa.Table,
    facts: Facts,
    preference: Preference | None = None,
) -> list[Estimate]:
    """Return all estimates of a search run.

    Args:
      ways: what its searches reached.
      questions: its rows, with `COLUMNS`.
      rows: its evaluations, with `EVALUATED`.
      facts: its settings.
      preference: of another run of the model.
    """
    num_layers = facts.num_layers
    costs = facts.costs
    gold = rows.filter(pa.array(~is_true(rows["control"])))
    estimates = search_estimates(ways, num_layers, preference)
    estimates += question_estimates(questions, num_layers, costs)
    confirmed = Share.of(is_true(questions["confirmed"].drop_null()))
    if facts.settings.get("dtype") != "float32":  # nothing else was computed
        action = "decodes the same" if facts.decodes else "is right"
        estimates.append(Estimate.of(f"best path {action} in float32", confirmed))
    estimates += depth_estimates(questions, costs)
    estimates += cost_estimates(questions, robust=bool(facts.settings.get("robust")))
    estimates += evaluation_estimates(questions, gold, decodes=facts.decodes)
    return estimates


def prior_estimates(facts: Facts, questions: Iterable[str]) -> Iterator[Estimate]:
    """Yield the edits of a prior, and how many questions of these keys chose them."""
    yield Estimate.count(PRIOR_EDITS, len(facts.settings["prior"]))
    if PRIOR_CHOSEN_ON in facts.settings:
        chosen = ChosenOn.from_json(facts.settings[PRIOR_CHOSEN_ON]).questions
        yield Estimate.count(PRIOR_QUESTIONS, len(chosen.intersection(questions)))


def question_estimates(
    questions: pa.Table, num_layers: int, costs: LayerCosts
) -> Iterator[Estimate]:
    """Yield what became of the questions, and the length and cost of the best paths."""
    correct = is_true(questions["baseline"])
    graded = correct | is_false(questions["baseline"])
    solved = ~is_null(questions["best"])
    lengths = np.where(solved, path_lengths(questions["best"], costs), num_layers)
    yield Estimate.of(SHORTENED, Share.of(lengths[correct] < num_layers))
    own = group_searches(questions)[CONTROLS[RETAINED]]
    if len(own):
        shorter = path_lengths(own.drop_null(), costs) < num_layers
        kept = Share(int(shorter.sum()), len(own))
        yield Estimate.of("own wrong answers, also on fewer layers", kept, control=True)
    yield Estimate(
        "mean layers of the best paths",
        value=mean(lengths[graded]),
        unit="layers",
        n=int(graded.sum()),
    )
    if costs.milliseconds is not None:
        paths = questions.filter(pa.array(graded))["best"].to_pylist()
        each = np.array([costs.of(path or range(num_layers)) for path in paths])
        yield Estimate("mean time of the best paths", value=mean(each), unit="ms")
        yield Estimate("the same, as a share of the model's", value=mean(each) / costs.total)
    yield Estimate.of(AFTER, Share.of(solved[graded]))
    unchanged = Share.of((correct & (lengths >= num_layers))[graded])
    yield Estimate.of("right before, on no path with fewer layers", unchanged)
    yield Estimate.of("W→W: right on no path that was tried", Share.of(~solved[graded]))
    excluded = int(np.count_nonzero(~graded))
    if excluded:
        yield Estimate.count("questions excluded, ungraded before", excluded)


def depth_estimates(questions: pa.Table, costs: LayerCosts) -> Iterator[Estimate]:
    """Yield the layers of the best paths by group, each with that of its control searches."""
    groups = group_searches(questions)
    for name, group in GROUPS.items():
        for key, label in ((name, "best paths"), (CONTROLS[name], "control")):
            depth = depth_of(groups[key].drop_null(), costs.num_layers, costs)
            for measure, value in (
                ("layers run", depth.layers),
                ("distinct layers", depth.distinct),
            ):
                yield Estimate(
                    f"{measure}, {label}, {group}",
                    value=value,
                    unit="layers",
                    n=depth.paths,
                    control=key != name,
                )


def cost_estimates(questions: pa.Table, *, robust: bool = False) -> Iterator[Estimate]:
    """Yield the evaluations of the run, by what they were for; see `count_evaluations`."""
    counted = questions.select(COUNTED).to_pylist()
    alone = [row | {"controls": None, "again": None} for row in counted]
    every = count_evaluations(counted, robust=robust)
    gold = count_evaluations(alone, robust=robust)
    again = 0 if robust else sum(map(count_again, counted))
    yield Estimate("evaluations per question", value=every / questions.num_rows, unit="mean")
    yield Estimate.count(SPENT, every)
    yield Estimate.count("of them by the searches for gold", gold)
    yield Estimate.count("added by control searches", every - gold - again, control=True)
    if again:
        yield Estimate.count("added by other wordings", again)


def evaluation_estimates(
    questions: pa.Table, rows: pa.Table, *, decodes: bool
) -> Iterator[Estimate]:
    """Yield what the evaluations of the searches for gold show."""
    place = index_in(rows["question"], questions["question"])
    edited = (rows["node"].to_numpy() > 0) & ~is_null(rows["verdict"]) & (place >= 0)
    right = is_true(rows["verdict"])
    broken = Share.of(~right[edited & is_true(questions["baseline"])[place]])
    fixed = Share.of(right[edited & is_false(questions["baseline"])[place]])
    ungraded = Share.of(is_null(rows["verdict"]))
    yield Estimate.of("paths tried, right before: wrong (C→W)", broken)
    yield Estimate.of("paths tried, wrong before: right (W→C)", fixed)
    yield Estimate.of("evaluations for gold, not finite", Share.of(~is_true(rows["finite"])))
    if ungraded.hits:
        yield Estimate.of("evaluations for gold, ungraded", ungraded)
    if decodes:
        truncated = Share.of(is_true(rows["truncated"].drop_null()))
        tokens = mean(rows["num_tokens"].drop_null().to_numpy())
        yield Estimate.of("evaluations for gold, truncated", truncated)
        yield Estimate("tokens decoded per evaluation", value=tokens, unit="tokens")


def index_in(names: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Return the place of each name among others, -1 where it is none of them."""
    others = pc.SetLookupOptions(among.combine_chunks())
    return pc.call_function("index_in", [names], others).fill_null(-1).to_numpy()
