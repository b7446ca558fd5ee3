"""Rows of the page: each claim of the paper beside ours, its control, and one sentence."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cola_jax.errors import count
from cola_jax.report.tables import Row, Table
from cola_jax.runs.estimates import BEFORE, BEYOND, EXPECTED, FOUND, REACHED, SAMPLED, Estimate
from cola_jax.runs.estimates import number_text as text_of
from cola_jax.runs.layer_use import CORRECTED, RETAINED
from cola_jax.runs.search_results import AFTER, GROUPS, SHORTENED
from experiments.paper import published
from experiments.paper.ceiling import PUBLISHED, TRAINED, Reached
from experiments.paper.cells import JOINT, MAIN
from experiments.paper.figures import SHORTEST, shortest_depth, skip_rates, use_of
from experiments.paper.latency import Times
from experiments.paper.published import Claim
from experiments.paper.results import Change, Result, with_interval

COLUMNS = (
    "claim", "the paper", "ours on", "ours", "control", "net", "samples, equal cost", "n", "",
)  # fmt: skip
TABLE_1 = (
    "data, setting, space", "n", "before", "on some path", "the paper (3B base)", "W→C", "expected",
    "net, points", "best path again, of controls", "samples, equal cost", "",
)  # fmt: skip
NONE = "–"
OWN_KEPT = "own wrong answers, also on fewer layers"
LAYERS_RUN = "layers run, {}, {}"
EQUAL_MARGIN = "difference, equal margin"
ABOUT_EQUAL = 0.02  # shares of paths that skip a layer


class Parts(NamedTuple):
    """What is measured beside the search of a claim."""

    results: Sequence[Result]
    changes: Sequence[Change]
    ceiling: Mapping[str, Reached]
    latency: Sequence[Times]


def claims_table(parts: Parts) -> Table:
    """Make the table of all claims: those of a search for each data set of the main text."""
    joint = [
        each
        for each in parts.results
        if each.cell.preset == MAIN and each.cell.space == JOINT and not each.cell.data.level
    ]
    rows = list(map(headline, joint))
    rows += ceiling_rows(parts.ceiling)
    rows += map(corrects, joint)
    rows += map(joint_row, parts.changes)
    for of_search in (shortens, stays, overthinks, skips_middle, shortest_row):
        rows += map(of_search, joint)
    rows += harder(parts.results)
    rows += latency_rows(parts.latency)
    return Table(rows, "Claims", COLUMNS, texts=True)


def row(claim: Claim, where: str, *cells: str) -> Row:
    """Make a row of the claims: of which data, ours, control, net, samples, n and a sentence."""
    return Row(claim.name, (f"{claim.number}; {claim.place}", where, *cells))


def verdict(net: Estimate, *, more: str, same: str) -> str:
    """State whether a difference is shown, after correction over the page."""
    if math.isnan(net.value):
        return "Nothing to compare."
    if net.note:
        return f"Nothing shown: {net.note}."
    if net.is_shown and net.low > 0:
        return f"Shown: {more}."
    if net.is_shown:
        return "Shown to be fewer than expected."
    return f"Not shown: {same}."


def headline(result: Result) -> Row:
    """Accuracy before, and on some path: the first number of the paper."""
    before, after = result.find(BEFORE), result.find(AFTER)
    net = result.find(BEYOND)
    sentence = verdict(
        net,
        more="some of the rise is beyond luck and preference",
        same="a search that does not favour the correct answer may reach as many",
    )
    expected = result.find(EXPECTED)
    return row(
        published.HEADLINE,
        result.name,
        f"{before.text} to {after.text}",
        f"{expected.text} of wrong ones expected",
        with_interval(net),
        result.find(SAMPLED).text,
        f"{before.n:,}",
        sentence,
    )


def corrects(result: Result) -> Row:
    """The share of wrong answers that become right."""
    net = result.find(BEYOND)
    reached = result.find(REACHED)
    sentence = verdict(
        net,
        more="more than a wrong answer that the model prefers as much",
        same="wrong answers may be reached as often, weighed by the model's preference",
    )
    return row(
        published.CORRECTS,
        result.name,
        with_interval(reached if reached.n else result.find(FOUND)),
        with_interval(result.find(EXPECTED)),
        with_interval(net),
        result.find(SAMPLED).text,
        f"{net.n or result.find(FOUND).n or 0:,}",
        sentence,
    )


def shortens(result: Result) -> Row:
    """The share of right answers that survive on fewer layers."""
    kept, own = result.find(SHORTENED), result.find(OWN_KEPT)
    net = result.find(EQUAL_MARGIN)
    saved = "\n".join([with_interval(net), "layers saved"]) if net.n else NONE
    sentence = verdict(
        net,
        more="right answers survive on fewer layers than wrong ones of the same margin",
        same="the model's own wrong answers may survive as well; any answer can be kept",
    )
    return row(
        published.SHORTENS,
        result.name,
        with_interval(kept),
        with_interval(own),
        saved,
        NONE,
        f"{kept.n or 0:,}",
        sentence,
    )


def stays(result: Result) -> Row:
    """The share of questions on which the model as it is stays the best path."""
    found = result.find("right before, on no path with fewer layers")
    control = result.find(OWN_KEPT)
    kept = Estimate(OWN_KEPT, value=1 - control.value, n=control.n)
    sentence = "The model's own wrong answers have no control."
    if control.n:
        sentence = f"Of the model's own wrong answers, {control.text} survive on fewer layers too."
    return row(
        published.STAYS,
        result.name,
        with_interval(found),
        f"{kept.text} of own wrong answers" if control.n else NONE,
        NONE,
        NONE,
        f"{found.n or 0:,}",
        sentence,
    )


def overthinks(result: Result) -> Row:
    """The layers of paths that correct an answer, beside those to wrong answers."""
    cells = [
        result.find(LAYERS_RUN.format(label, GROUPS[group]))
        for group in (CORRECTED, RETAINED)
        for label in ("best paths", "control")
    ]
    corrected, of_wrong, kept, of_kept = cells
    shorter = "shorter" if corrected.value < kept.value else "not shorter"
    apart = text_of(corrected.value - of_wrong.value, "layers more")
    return row(
        published.OVERTHINKS,
        result.name,
        f"{corrected.text} of {result.num_layers}; kept: {kept.text}",
        f"{of_wrong.text}; kept: {of_kept.text}",
        NONE,
        NONE,
        f"{corrected.n or 0:,}, {kept.n or 0:,}",
        f"Paths that correct an answer are {shorter} than those that keep one; against paths to "
        f"wrong answers they take {apart} layers. No test.",
    )


def skips_middle(result: Result) -> Row:
    """The share of shortest paths that skip a layer, by thirds of the model."""
    rates = skip_rates(result)
    text = " / ".join(text_of(rate, "share") for rate in rates.thirds)
    first = text_of(rates.first, "share")
    control = " / ".join(text_of(rate, "share") for rate in rates.control)
    return row(
        published.MIDDLE,
        result.name,
        f"{text}; layer 0: {first}",
        control,
        NONE,
        NONE,
        f"{rates.n:,}",
        f"The middle third is {middle_text(rates.thirds)} on these paths, and "
        f"{middle_text(rates.control)} on paths to wrong answers; layer 0 is "
        f"{'skipped, too' if rates.first else 'kept'}. No test.",
    )


def middle_text(thirds: Sequence[float]) -> str:
    """Say whether the middle third of a model is skipped more than both others."""
    first, middle, last = thirds
    more = middle - max(first, last)
    if abs(more) <= ABOUT_EQUAL:
        return "skipped about as often as another"
    return "skipped most" if more > 0 else "not skipped most"


def shortest_row(result: Result) -> Row:
    """The depth of the shortest twentieth of all right paths."""
    own, control = (
        shortest_depth(result, SHORTEST[0], control=is_control) for is_control in (False, True)
    )
    texts = [NONE if math.isnan(each) else text_of(1 - each, "share") for each in (own, control)]
    return row(
        published.SHORTEST,
        result.name,
        f"{texts[0]} shorter",
        f"{texts[1]} shorter, to wrong answers",
        NONE,
        NONE,
        f"{result.rows:,}",
        f"{texts[0]} is saved by right paths, and {texts[1]} by paths to wrong answers. No test.",
    )


def joint_row(change: Change) -> Row:
    """The joint space against another one, on the same questions."""
    first, other, net = change
    p = f"p {net.p_text}" if net.p_text else ""
    sentence = "Not shown: no difference beyond control."
    if net.is_shown:
        sentence = f"Shown: {'more' if net.low > 0 else 'fewer'} beyond control."
    return row(
        published.JOINT,
        f"{first.name} minus {other.cell.space}",
        f"W→C {of_wrong(first, FOUND)} against {of_wrong(other, FOUND)}",
        f"{of_wrong(first, EXPECTED)} against {of_wrong(other, EXPECTED)} expected",
        "\n".join(filter(None, [net.result, net.interval_text, p])),
        NONE,
        f"{net.n or 0:,}",
        sentence,
    )


def of_wrong(result: Result, name: str) -> str:
    """Write a share of wrong answers with their number, as searches may have other questions."""
    estimate = result.find(name)
    return f"{estimate.text} of {estimate.n or 0:,}"


def harder(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the entropy of the use of layers by level of MATH-500."""
    levels = [each for each in results if each.cell.data.level and each.cell.space == JOINT]
    if levels:
        uses = [use_of(each) for each in levels]
        yield row(
            published.EVEN,
            f"{levels[0].model}, MATH-500, levels "
            + ", ".join(str(each.cell.data.level) for each in levels),
            " / ".join(f"{use.entropy:.2f}" for use in uses),
            " / ".join(f"{use.control:.2f}" for use in uses),
            NONE,
            NONE,
            " / ".join(f"{use.paths}" for use in uses),
            f"Levels differ by {spread(use.entropy for use in uses):.2f}, and by "
            f"{spread(use.control for use in uses):.2f} over all paths that were tried. No test.",
        )


def spread(values: Iterable[float]) -> float:
    """Return the largest value minus the least."""
    every = [*values]
    return max(every) - min(every)


def ceiling_rows(ceiling: Mapping[str, Reached]) -> Iterator[Row]:
    """Yield what networks of random weights reach with the paper's budget."""
    for name, reached in ceiling.items():
        sentence = "The model's letter, by the same grader."
        if not name.startswith(TRAINED):
            most = reached.as_graded.hits == reached.most.hits
            short = 100 * (reached.most.value - reached.as_graded.value)
            sentence = (
                "A network that knows nothing reaches the ceiling of this grader, so the column "
                "may say no more than how many labels are letters."
                if most
                else f"A network that knows nothing ends {short:.1f} points below the ceiling."
            )
        tries = "" if math.isnan(reached.median) else f", after {reached.median:.0f} paths (median)"
        yield row(
            published.CEILING,
            f"{name}; ARC-Easy, letters",
            f"{text_of(reached.before.value, 'share')} to "
            f"{text_of(reached.as_graded.value, 'share')}{tries}",
            f"{text_of(reached.most.value, 'share')} of labels are letters; the paper has "
            f"{text_of(PUBLISHED['arc_easy'], 'share')}",
            NONE,
            NONE,
            f"{len(reached.first):,}",
            sentence,
        )


def latency_rows(times: Sequence[Times]) -> Iterator[Row]:
    """Yield the time and memory of found paths against those of the identity path."""
    for each in times:
        ratio = each.milliseconds / each.identity_milliseconds
        faster = "Faster here" if ratio < 1 else "Not faster here"
        busy = f", on a busy machine (load {each.load:.0f} a core)" if each.load > 1.5 else ""
        yield row(
            published.FASTER,
            f"{each.model}, path of {each.layers} layers",
            f"{each.milliseconds:.1f} ms a token, {ratio:.2f}x the model's",
            f"{each.identity_milliseconds:.1f} ms, {each.identity_layers} layers",
            NONE,
            NONE,
            f"{count(each.rounds, 'round')}{busy}",
            f"{faster}: weights are the same ({each.weight_bytes / 1e6:,.0f} MB, as all layers "
            f"stay loaded), the cache of a token has {each.cache_bytes / 1024:.1f} in place of "
            f"{each.identity_cache_bytes / 1024:.1f} KiB.",
        )


def search_table(results: Sequence[Result]) -> Table:
    """Make Table 1 of ours: a row for each data set, setting and space."""
    rows = []
    for each in results:
        cell = each.cell
        before = each.find(BEFORE)
        original = published.accuracy(cell.data.published, published.ORIGINAL)
        found = published.accuracy(cell.data.published, cell.space)
        theirs = NONE if found is None else f"{original} to {found} %"
        if cell.data.level:
            theirs += f"\n({cell.data.published})"
        net = each.find(BEYOND)
        unfinished = each.rows < each.results.run["settings"]["questions"]
        held = each.find("its best path right in all wordings")
        held_control = each.find("control: best path, likewise")
        sentence = verdict(
            net, more="beyond luck and preference", same="luck and preference may do it"
        )
        if cell.data.note:
            sentence = f"{sentence} {cell.data.note[0].upper()}{cell.data.note[1:]}."
        rows.append(
            Row(
                each.name + (" (unfinished)" if unfinished else ""),
                (
                    f"{before.n or 0:,}",
                    before.text,
                    each.find(AFTER).text,
                    theirs,
                    with_interval(each.find(FOUND)),
                    each.find(EXPECTED).text,
                    with_interval(net),
                    f"{held.text}, {held_control.text}",
                    each.find(SAMPLED).text,
                    sentence,
                ),
            )
        )
    return Table(rows, "Table 1, ours: by data set, setting and space", TABLE_1, texts=True)


def published_table() -> Table:
    """Make Table 1 as published."""
    rows = []
    for model, spaces in published.TABLE_1.items():
        for space, values in zip(published.SPACES, spaces, strict=True):
            rows.append(Row(f"{model}, {space}", tuple(f"{value}" for value in values)))
    return Table(rows, "Table 1, the paper's: accuracy in %", ("", *published.DATA))
