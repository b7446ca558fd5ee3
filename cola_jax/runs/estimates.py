"""`Estimate`: the one form in which results are kept and shown.

What a command measured is a list of estimates, which `results.json` holds. Everything that is shown
(sentences, tables, pages, model cards, the formats of other tools) is made of this list.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cola_jax.errors import count, shown
from cola_jax.scoring.statistics import (
    ALPHA,
    DRAWN_PROMPTS,
    Crossed,
    Difference,
    Mean,
    Share,
    number_or_none,
)

NO_VALUE = "–"
MODEL = "the model"  # group of the estimates of the identity path
# of a path, a block, a rule or a claim
CORRECT = "correct"
CHANGE = "points more"  # accuracy minus that of the model
CHOSEN = "chosen"  # note: that of a command, on other questions than it is measured on
# of what a command chose, on held-out questions
RECOMMENDED = "recommended"  # note: its group
LIMIT = "searched"  # note: such as at most 27 layers, where that leaves the model out
CANDIDATES = "candidates measured"
# of the blocks of a scan
ELSEWHERE = "best of one half of the questions, on the other"
PROMPTS = "prompts"  # in which a scan asked
THESE_ALONE = "these alone"  # note: no draws, as they are too few
# of claims
LIKELIHOOD = "nats/100 more"  # the log-probability of correct answers minus that of the model
ABOVE_BREAK_EVEN = "points above break-even"  # acceptance of a draft minus its share of the cost
LOSS = "loss excluded"  # the margin, and the test of a loss of as much
DETECTABLE = "shown four times in five"  # the least true difference that would be
ABOVE_CHANCE = "above a guess"  # what the model has to lose
CHOSEN_BY = "questions that chose it"  # of the trial's; note: where the claim comes from
TRIES = "earlier tries"  # note: their dates and outcomes
PROMPT_SD = "prompt sd"  # p: of the test that prompts do not differ
QUESTION_SD = "question sd"
RESIDUAL_SD = "residual sd"
PLACE = "place among random paths"
MEDIAN = "median of random paths"
HIGHEST = "best of random paths"
SHORTGPT = "minus ShortGPT's path"
VOTE = "minus a vote of samples"
SECONDS = "seconds alone"
RATIOS = "{}, times the model's"  # of layers, tokens and seconds
BETTER = "better"
WORSE = "worse"
AS_GOOD = "as good on fewer layers"
DEPENDS = "depends on the prompt"
NOT_SHOWN = "nothing shown"
PILOT = "pilot"  # a trial below the least size
STATED = {
    BETTER: "{claim} is better",
    WORSE: "{claim} is worse",
    AS_GOOD: "{claim} is as good on fewer layers",
    DEPENDS: "The effect of {claim} depends on the prompt",
    NOT_SHOWN: "Nothing shown for {claim}",
    PILOT: "Pilot of {claim}, no verdict",
}
STATED_OF_DRAFTS = STATED | {
    BETTER: "{claim} pays as a draft",
    WORSE: "{claim} does not pay as a draft",
    NOT_SHOWN: "Nothing shown for {claim} as a draft",
}
# of searches
BEFORE = "right before (pretrained model)"
FOUND = "wrong before, right on some path that was tried"
REACHED = "W→C: wrong before, right on some path"  # of the questions with a control
EXPECTED = "expected by chance and preference"
BEYOND = "difference in points"
SAMPLED = "samples of the model at equal cost, one of them right"
PREFERENCE = "the model's preference for gold, tau"
PREFERENCES = {  # with their units, in the order of `COVARIATES`
    PREFERENCE: "per score",
    "the same, by length": "log-odds",
    "the same, by rank": "log-odds",
    "the same, by length squared": "log-odds",
    "the same, by rank squared": "log-odds",
}
UNSCORED = "without finite scores, not compared"
# of searches with a prior
PRIOR_EDITS = "edits of earlier searches, tried first"
PRIOR_QUESTIONS = "questions here that those searches had, too"  # 0, or the figures are no evidence
# notes of the difference
UNKNOWN = "the model's preference is not known"  # so it is no evidence of skill
UNKNOWN_REASON = (
    "the model's preference among the answers searched for is not known, and gold may be the one "
    "that it prefers"
)
UNDECIDED = "undecided"  # preference alone nearly decides which answer is gold


class Unit(NamedTuple):
    """How a number of a unit is written."""

    scale: float = 1.0
    decimals: int = 1
    suffix: str = ""
    signed: bool = False


UNITS = {
    "share": Unit(100, suffix=" %"),  # from 0 to 1
    "points": Unit(100, signed=True),  # a difference of shares, from -1 to 1
    "points apart": Unit(100),  # the same without a direction
    "layers": Unit(),
    "layers more": Unit(signed=True),
    "nats": Unit(decimals=2),
    "score": Unit(decimals=2),  # of scores without a unit
    "nats more": Unit(decimals=2, signed=True),
    "score more": Unit(decimals=2, signed=True),
    "nats/100 more": Unit(100, signed=True),  # a difference of nats
    "nats/100 apart": Unit(100),
    "nats of divergence": Unit(decimals=3),
    "loss": Unit(decimals=4),
    "per score": Unit(decimals=2),  # of the logarithm of odds
    "log-odds": Unit(decimals=2),  # per standard deviation within a question
    "tokens": Unit(),
    "count": Unit(decimals=0),
    "mean": Unit(),
    "ms": Unit(suffix=" ms"),
    "seconds": Unit(decimals=3, suffix=" s"),
    "times": Unit(decimals=2, suffix="x"),  # as much as the model
    "place": Unit(decimals=0),  # among n
}
SIZES = {"points": "points", "nats more": "nats", "nats/100 more": "hundredths of a nat"}
SIZES |= {"points apart": SIZES["points"], "nats/100 apart": SIZES["nats/100 more"]}
APART = {"points": "points apart", "nats/100 more": "nats/100 apart"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Estimate:
    """A figure with what says how sure it is; NaN and None are what it does not have."""

    name: str  # what was measured, as tables and sentences call it
    group: str = ""  # the path, claim, rule or run of which; "" for all that was measured
    value: float = math.nan
    unit: str = "share"  # one of UNITS; shares and differences of shares are not in per cent
    low: float = math.nan  # bounds of the 95 % interval, simultaneous over what is tested beside it
    high: float = math.nan
    p: float = math.nan  # two-sided
    corrected: float = math.nan  # p, corrected for all tests beside it
    n: int | None = None  # questions, or whatever the figure is a share or a mean of
    control: bool = False  # what the others are compared with
    note: str = ""  # a result in words, or what limits the figure

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"{shown(self.unit)} is no known unit")
        if self.unit == "place" and self.n is None:
            raise ValueError("a place lacks n, the number of places")

    @classmethod
    def of(
        cls, name: str, measured: Share | Difference | Crossed | Mean, unit: str = "", **rest: Any
    ) -> "Estimate":
        """Take a measurement with its interval, its p-value and n where it has them."""
        low, high = measured.interval
        facts: dict[str, Any] = {"value": measured.value, "low": low, "high": high}
        if isinstance(measured, Share):
            facts |= {"unit": "share", "n": measured.n}
        elif not isinstance(measured, Mean):
            facts |= {"unit": "points", "n": measured.n, "p": measured.p}
        if unit:
            facts["unit"] = unit
        return cls(name, **(facts | rest))

    @classmethod
    def count(cls, name: str, number: int, **rest: Any) -> "Estimate":
        """Take a number of things."""
        return cls(name, value=number, unit="count", **rest)

    @property
    def hits(self) -> int:
        """The number of which a share is the quotient."""
        return round(self.value * (self.n or 0)) if self.n else 0

    @property
    def text(self) -> str:
        """The value, as it is shown."""
        text = number_text(self.value, self.unit)
        return f"{text} of {self.n:,}" if self.unit == "place" else text

    @property
    def result(self) -> str:
        """The value as it is shown, or the note that stands in its place."""
        return self.note if math.isnan(self.value) and self.note else self.text

    @property
    def interval_text(self) -> str:
        """The interval, as it is shown; "" for none."""
        if math.isnan(self.low):
            return ""
        return " to ".join(number_text(bound, self.unit, plain=True) for bound in self.interval)

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the interval."""
        return self.low, self.high

    @property
    def p_text(self) -> str:
        """The p-value, corrected where it is; "" for none."""
        p = self.p if math.isnan(self.corrected) else self.corrected
        return "" if math.isnan(p) else p_text(p)

    @property
    def is_shown(self) -> bool:
        """Whether the corrected p-value is below 0.05 and the interval excludes 0."""
        return self.corrected < ALPHA and (self.low > 0 or self.high < 0)

    @property
    def size_text(self) -> str:
        """The value with its unit, for a sentence."""
        return f"{self.text} {SIZES.get(self.unit, '')}".strip()

    @property
    def size(self) -> str:
        """The value with its unit, interval and p-value, for a sentence."""
        interval = self.interval_text
        interval = f"95 % interval {interval}" if interval else "too few questions for an interval"
        p = f", p {self.p_text}" if self.p_text else ""
        return f"{self.size_text} ({interval}{p})"

    def to_json(self) -> dict[str, Any]:
        """Return what it has, by field."""
        fields = number_or_none(dataclasses.asdict(self))
        return {
            name: value
            for name, value in fields.items()
            if value is not None and value is not False and value != ""
        }


def number_text(value: float, unit: str, *, plain: bool = False) -> str:
    """Write a number of a unit; `plain` without the unit, as bounds of an interval are."""
    style = UNITS[unit]
    if math.isnan(value):
        return NO_VALUE
    decimals = style.decimals
    if unit == "ms" and value:
        decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    sign = "+" if style.signed else ""
    text = f"{value * style.scale:{sign},.{decimals}f}"
    if plain:
        return text.replace("-", "−")
    if unit == "share" and text == "0.0" and value > 0:
        text = "<0.1"
    if unit == "share" and text == "100.0" and value < 1:
        text = ">99.9"
    return text.replace("-", "−") + style.suffix


def p_text(p: float) -> str:
    """Write a p-value."""
    if math.isnan(p):
        return NO_VALUE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def sentences_of(estimates: Iterable[Estimate]) -> list[str]:
    """State what the estimates of a command show: a sentence, of a trial one for each claim."""
    every = list(estimates)
    whole = {each.name: each for each in every if not each.group}
    if BEFORE in whole:
        return [sentence_of_searches(whole)]
    of_runs = [each for each in every if each.name == BEYOND]
    if of_runs:
        return [sentence_of_run(each) for each in of_runs]
    if ELSEWHERE in whole:
        return [sentence_of_scan([each for each in every if each.name == CHANGE], whole)]
    if RECOMMENDED in whole:
        return [sentence_of_recommendation(every, whole)]
    claims = {each.group: each for each in every if each.note in STATED}
    if claims:
        return [
            sentence_of_claim(claim, {each.name: each for each in every if each.group == group})
            for group, claim in claims.items()
        ]
    is_compared = any(each.name in (CORRECT, CHANGE) for each in every)
    return [sentence_of_paths(every)] if is_compared else []


def sentence_of_scan(changes: list[Estimate], whole: Mapping[str, Estimate]) -> str:
    """State whether a block makes the model more accurate, and what its choice is worth."""
    best = max(changes, key=lambda each: each.value)
    prompts = whole.get(PROMPTS)  # of earlier versions none
    where = " in the prompts of the scan"
    half = "the questions"
    if prompts is not None:
        number = count(int(prompts.value), "prompt")
        where = f" in these {number}" if prompts.note else f" over {number}"
        if prompts.value == 1:
            where = " in this prompt"
        else:
            half += " and prompts"
    p = f"p {best.p_text}, corrected for {count(len(changes), 'block')}"
    text = f"Nothing shown: no block makes the model more accurate{where} beyond chance"
    text += f"; the highest is {best.group} ({p})."
    is_shown = best.is_shown and best.value > 0
    if is_shown:
        text = f"Shown{where}: {best.group} makes the model more accurate ({p})."
    elsewhere = whole[ELSEWHERE]
    chosen = f"chosen on one half of {half} and measured on the other"
    excludes = elsewhere.low > 0 or elsewhere.high < 0
    aside = "; this interval is beside the test, and shows nothing alone"
    return f"{text} {elsewhere.note}, {chosen}: {elsewhere.size}{aside * (excludes > is_shown)}."


def sentence_of_recommendation(every: list[Estimate], whole: Mapping[str, Estimate]) -> str:
    """State what to use: the model as it is, unless a candidate is shown to be better."""
    recommended = whole[RECOMMENDED].note
    found = next((each.group for each in every if each.note == CHOSEN), MODEL)
    number = count(int(whole[CANDIDATES].value), "candidate")
    named = found if recommended == MODEL else recommended
    changes = {each.group: each for each in every if each.name == CHANGE}
    if not changes:
        return "Recommended: the model as it is. Nothing else was found."
    if named not in changes:
        return (
            "Recommended: the model as it is. Nothing else was chosen, and on held-out questions "
            f"none of {number} is shown to be better."
        )
    change = changes[named]
    prompts = sum(each.group == named and is_prompt(each.name) for each in every)
    where = in_few_prompts(max(1, prompts))
    size = f"{change.size_text} ({simultaneous_interval(change)}, corrected for {number}"
    if TRIES in whole:
        size += f" and {count(int(whole[TRIES].value), 'earlier result')} on these questions"
    size += ")"
    if change.is_shown and change.value > 0:
        return (
            f"Recommended: {named}. It answers more questions correctly than the model{where}, by "
            f"{size}."
        )
    is_worse = change.is_shown
    if recommended == MODEL:
        better = "answers fewer questions correctly" if is_worse else "is not shown to be better"
        return f"Recommended: the model as it is. {named} {better}{where}: {size}."
    as_good = "answers fewer questions correctly" if is_worse else "is not shown to be as good"
    return (
        f"Of {whole[LIMIT].note}: {named}, which {as_good}{where}: {size}. Try it with "
        "`cola verify` before use."
    )


def sentence_of_claim(claim: Estimate, beside: Mapping[str, Estimate]) -> str:
    """State the outcome of a claim, and what limits it; `beside` are its estimates by name."""
    outcome = claim.note
    each = [other.value for name, other in beside.items() if is_prompt(name)]
    stated = STATED_OF_DRAFTS if claim.name == ABOVE_BREAK_EVEN else STATED
    stated = stated[outcome].format(claim=claim.group) + in_few_prompts(len(each))
    text = f"{stated}: {claim.size_text} ({simultaneous_interval(claim)})"
    limits = [
        *limits_of_loss(claim, beside.get(LOSS)),
        *limits_of_prompts(claim, beside.get(PROMPT_SD), each),
        *limits_of_origin(beside),
    ]
    detectable = beside.get(DETECTABLE)
    if detectable is not None and outcome in (NOT_SHOWN, PILOT):
        limits.append(
            f"a difference of {detectable.size_text} would have been shown four times in five"
        )
    return "; ".join([text, *limits]) + "."


def in_few_prompts(prompts: int) -> str:
    """Say that a result holds in the prompts of the trial alone, "" where they were drawn."""
    if prompts >= DRAWN_PROMPTS or not prompts:
        return ""
    return ", in this prompt" if prompts == 1 else f", in these {prompts} prompts"


def simultaneous_interval(claim: Estimate) -> str:
    """Write the simultaneous interval of a difference, and its p-value."""
    if math.isnan(claim.low):
        return "no answer changed" if claim.value == 0 else "too few questions for an interval"
    text = f"simultaneous 95 % interval {claim.interval_text}"
    if claim.p_text:
        text += f", p {claim.p_text}"
    includes = claim.low <= 0 <= claim.high
    if claim.note in (BETTER, WORSE) and includes:
        text += ", by the later steps of the correction, as the interval includes 0"
    return text


def limits_of_loss(claim: Estimate, loss: Estimate | None) -> Iterator[str]:
    """Say whether a loss of the margin is excluded, or why the trial could not have shown one."""
    if loss is None:
        return
    if claim.note == AS_GOOD:
        yield f"a loss of {loss.size_text} is excluded (p {loss.p_text})"
    elif loss.note and claim.note in (NOT_SHOWN, DEPENDS):
        yield f"this trial could not have shown a loss: {loss.note}"
    elif claim.note == WORSE and loss.corrected <= ALPHA:
        yield f"the loss lies within the margin of {loss.size_text}"


def limits_of_prompts(claim: Estimate, spread: Estimate | None, each: list[float]) -> Iterator[str]:
    """Say how the effect [K] differs between prompts, where it is shown to."""
    if spread is not None and spread.corrected <= ALPHA:
        size = "" if claim.note == DEPENDS else "the size depends on the prompt, "
        least, most = (number_text(value, claim.unit) for value in (min(each), max(each)))
        yield f"{size}{least} to {most} over {len(each)} prompts (interaction p {spread.p_text})"


def limits_of_origin(beside: Mapping[str, Estimate]) -> Iterator[str]:
    """Say where a claim comes from, and how often it was tried before."""
    if CHOSEN_BY in beside:
        yield f"chosen on: {beside[CHOSEN_BY].note}"
    tries = beside.get(TRIES)
    if tries is not None and tries.value:
        name = "earlier try" if tries.value == 1 else "earlier tries"
        yield f"{tries.text} {name}: {tries.note}"


def is_prompt(name: str) -> bool:
    """Whether an estimate is that of a difference in one of several prompts."""
    return name.startswith("prompt ") and name != PROMPT_SD


def sentence_of_paths(every: list[Estimate]) -> str:
    """State whether paths, blocks or rules differ from the pretrained model."""
    changes = [each for each in every if each.name == CHANGE]
    chosen = {each.group for each in every if each.note == CHOSEN}
    if MODEL in chosen:
        return "Nothing shown: no other is better than the model where one is chosen."
    changes = [each for each in changes if not chosen or each.group in chosen]
    if changes:
        prompts = {each.name for each in every if is_prompt(each.name)}
        return sentence_of_changes(changes, in_few_prompts(max(1, len(prompts))))
    shares = [each for each in every if each.name == CORRECT]
    if len(shares) == 1:
        return sentence_of_share(shares[0])
    return (
        "Nothing compared: the identity path, which is the pretrained model, is not among these "
        f"{count(len(shares), 'path')}."
    )


def sentence_of_changes(changes: list[Estimate], where: str) -> str:
    """State whether a path, block, rule or claim differs from the pretrained model.

    `where` names the prompts, where these are few.
    """
    changes = [each for each in changes if not math.isnan(each.value)]
    if not changes:
        return "Nothing compared: no question was graded on both the model and another path."
    ordered = sorted(changes, key=lambda each: -each.value)
    different = [each for each in ordered if each.is_shown]
    better = [each for each in different if each.value > 0]
    best = (better or different or ordered)[0]
    corrected = f", corrected for {len(changes)} comparisons" if len(changes) > 1 else ""
    size = f"{best.size}{corrected}"
    if different:
        more = "more" if better else "fewer"
        answers = f"{best.group} answers {more} questions correctly than the model"
        return f"Shown: {answers}{where}, by {size}."
    if len(changes) == 1:
        beyond = f"{best.group} does not differ from the model beyond chance{where}"
        return f"Nothing shown: {beyond}, {size}."
    beyond = f"none differs from the model beyond chance{where}"
    return f"Nothing shown: {beyond}; {best.group} is best, {size}."


def sentence_of_share(share: Estimate) -> str:
    """State the accuracy of the only path, or of the pretrained model."""
    name = "The model" if share.group == MODEL else f"Path {share.group}"
    if not share.n:
        return f"{name} was not graded on any question."
    questions = count(share.n, "question")
    if math.isnan(share.low):  # of several prompts
        return f"{name} answers {share.text} of {questions} correctly, in the mean of all prompts."
    interval = f"95 % interval {share.interval_text}"
    return f"{name} answers {share.hits:,} of {questions} correctly, {share.text} ({interval})."


def sentence_of_run(beyond: Estimate) -> str:
    """State whether a search reaches more beyond the expected share than another one."""
    if math.isnan(beyond.low):
        few = "too few questions differ to compare the runs beyond expectation"
        return f"{beyond.group}: nothing shown: {few}."
    shown = "shown" if beyond.is_shown else "nothing shown"
    if beyond.note == UNKNOWN:
        shown += f", as {UNKNOWN}"
    return f"{beyond.group}: {shown}: {beyond.size} of the wrong questions, beyond expectation."


def sentence_of_searches(whole: Mapping[str, Estimate]) -> str:
    """State whether searches reach the correct answers more often than expected, and why."""
    before = whole[BEFORE]
    found = whole[FOUND]
    beyond = whole.get(BEYOND)
    if whole.get(PRIOR_QUESTIONS) is not None and whole[PRIOR_QUESTIONS].value:
        shared = count(int(whole[PRIOR_QUESTIONS].value), "question")
        return f"Nothing shown: {shared} chose the edits that are tried first here."
    if not before.n:
        return "Nothing shown: no question was graded before."
    if not found.n and before.hits < before.n:
        return "Nothing to compare: the model got no question wrong in all wordings."
    if not found.n:
        all_questions = "the only question" if before.n == 1 else f"all {before.n:,} questions"
        return f"Nothing to correct: the model was right before on {all_questions}."
    if beyond is None or not beyond.n:
        reason = "none of these questions has a control search to compare with"
        if UNSCORED in whole:
            reason = "the pretrained model's scores, which the comparison needs, are not stored"
        return (
            f"Nothing shown: the searches found a correct path for {found.hits} of {found.n} "
            f"questions that the model got wrong, but {reason}."
        )
    reached = whole[REACHED]
    compared = count(beyond.n, "question")
    if beyond.n < found.n:
        compared += f" that can be compared, of {found.n}"
    wrong = f"the searches found a correct path for {reached.hits} of the {compared}"
    wrong += " that the model got wrong"
    if beyond.note == UNDECIDED:
        reason = "the model's preference alone nearly decides which answer is the correct one"
        return f"Nothing shown: {wrong}, but {reason}."
    expected = f"{whole[EXPECTED].value * beyond.n:.1f} were expected by chance"
    difference = f"Difference: {beyond.size}"
    samples = ""
    if SAMPLED in whole:
        sampled = whole[SAMPLED].value * beyond.n
        samples = f" Samples of the model at equal cost are right on {sampled:.1f}."
    if beyond.note == UNKNOWN:
        return (
            f"Nothing shown: {wrong}, and {expected}, but {UNKNOWN_REASON}. {difference}.{samples}"
        )
    if beyond.is_shown and beyond.low > 0:
        return f"Shown: {wrong}, and {expected}. {difference}.{samples}"
    if beyond.is_shown:
        return f"Shown to be fewer than expected: {wrong}, but {expected}. {difference}.{samples}"
    because = "as searches reach wrong answers too"
    if PREFERENCE in whole and whole[PREFERENCE].value > 0:
        because += ", and the model often prefers the correct one to them"
    return f"Nothing shown: {wrong}, but {expected}, {because}. {difference}.{samples}"
