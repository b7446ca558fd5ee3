"""Tables of estimates: rows of text, for the terminal, Markdown and the page alike."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cola_jax.runs.estimates import (
    ABOVE_CHANCE,
    CHOSEN_BY,
    DETECTABLE,
    FOUND,
    HIGHEST,
    LOSS,
    MEDIAN,
    MODEL,
    PLACE,
    PREFERENCE,
    QUESTION_SD,
    RATIOS,
    RESIDUAL_SD,
    SECONDS,
    SHORTGPT,
    TRIES,
    UNSCORED,
    VOTE,
    Estimate,
)
from cola_jax.runs.results import Results
from cola_jax.runs.search_results import ASKED_AGAIN, NET, SPENT
from cola_jax.runs.trial_facts import trial_facts

COLUMNS = ("", "value", "95 % interval", "n")
MAIN = 10  # rows before the others are folded
BEYOND_EXPECTED = "Beyond the expected number"
ANSWERS = "Answers"
AGAIN = "Asked again in other wordings"
SAVED = "Layers saved while the model keeps its answer"
DEPTH = "Layers run by a path"
COST = "Cost"
BESIDE = "Beside other paths"
COULD = "What the trial could show"
IN_EACH_PROMPT = "In each prompt"
# of names that begin so; all others are in the first table
HEADINGS = {
    "prompt ": IN_EACH_PROMPT,
    PREFERENCE: BEYOND_EXPECTED,
    "the same, by ": BEYOND_EXPECTED,
    NET: BEYOND_EXPECTED,
    QUESTION_SD: IN_EACH_PROMPT,
    RESIDUAL_SD: IN_EACH_PROMPT,
    PLACE: BESIDE,
    MEDIAN: BESIDE,
    HIGHEST: BESIDE,
    SHORTGPT: BESIDE,
    VOTE: BESIDE,
    ABOVE_CHANCE: COULD,
    LOSS: COULD,
    DETECTABLE: COULD,
    SECONDS: COST,
    RATIOS.format("layers"): COST,
    RATIOS.format("tokens"): COST,
    RATIOS.format("seconds"): COST,
    FOUND: ANSWERS,
    "right on some path": ANSWERS,
    "right before, on no path": ANSWERS,
    "wrong answers that searches": ANSWERS,
    "wrong before, without a control": ANSWERS,
    UNSCORED: ANSWERS,
    "W→W": ANSWERS,
    "paths tried, ": ANSWERS,
    "questions excluded": ANSWERS,
    "model's answer in another": AGAIN,
    "right in all wordings": AGAIN,
    "its best path right": AGAIN,
    "control: best path": AGAIN,
    "right in some wordings": AGAIN,
    "right in all, and": AGAIN,
    "saved on": SAVED,
    "difference, equal margin": SAVED,
    "layers run, ": DEPTH,
    "distinct layers, ": DEPTH,
    SPENT: COST,
    "evaluations, ": COST,
    "evaluations for gold": COST,
    "of them by": COST,
    "added by": COST,
    "tokens decoded": COST,
}


STATED_OF_CLAIMS = (CHOSEN_BY, TRIES)  # in the table of `protocol_table`


class Row(NamedTuple):
    """One line of a table, as text; a cell may have its interval on a second line."""

    label: str
    cells: tuple[str, ...]
    control: bool = False  # of control searches, which are shown in another colour
    bold: bool = False


class Table(NamedTuple):
    """Rows with the names of their columns, the first of which is that of the labels."""

    rows: list[Row]
    heading: str = ""
    columns: tuple[str, ...] = COLUMNS
    texts: bool = False  # cells are texts, not numbers


def tables_of(estimates: Iterable[Estimate]) -> list[Table]:
    """Arrange estimates in tables, the one that a reader looks for first at the beginning.

    What was measured once has a row; what was measured of several paths, blocks, rules, claims or
    runs has a column, and each of these a row.
    """
    under: dict[str, list[Estimate]] = {}
    for each in estimates:
        if each.group and each.name in STATED_OF_CLAIMS:
            continue
        under.setdefault(heading_of(each), []).append(each)
    tables = []
    for heading in sorted(under, key=lambda heading: heading != ""):
        whole = [each for each in under[heading] if not each.group]
        of_groups = [each for each in under[heading] if each.group]
        if of_groups:
            tables += folded(group_table(of_groups, heading))
        if whole:
            tables.append(value_table(whole, heading))
    return tables


def protocol_table(results: Results) -> Table | None:
    """Arrange the facts of a trial that a reviewer asks for; None for another command."""
    rows = [Row(name, (text,)) for name, text in trial_facts(results).items()]
    return Table(rows, columns=("protocol", ""), texts=True) if rows else None


def heading_of(estimate: Estimate) -> str:
    """Return the heading of the table of an estimate, "" for the first table."""
    if estimate.name.endswith(ASKED_AGAIN):
        return AGAIN
    begun = (heading for name, heading in HEADINGS.items() if estimate.name.startswith(name))
    return next(begun, "")


def folded(table: Table) -> list[Table]:
    """Split a long table without a heading into its first rows and the others."""
    if table.heading or len(table.rows) <= MAIN:
        return [table]
    return [
        table._replace(rows=table.rows[:MAIN]),
        table._replace(rows=table.rows[MAIN:], heading="All others"),
    ]


def value_table(estimates: Sequence[Estimate], heading: str = "") -> Table:
    """Make a table with a row for each estimate."""
    has_p = any(each.p_text for each in estimates)
    rows = []
    for each in estimates:
        n = "" if each.n is None else f"{each.n:,}"
        cells = [each.result, each.interval_text, n]
        if has_p:
            cells.append(each.p_text)
        label = each.name
        if each.note and not math.isnan(each.value):
            label += f" ({each.note})"
        rows.append(Row(label, tuple(cells), each.control))
    columns = (*COLUMNS, "p") if has_p else COLUMNS
    return Table(rows, heading, columns)


def group_table(estimates: Sequence[Estimate], heading: str = "") -> Table:
    """Make a table with a row for each group, and a column for each name and its p-values."""
    names = [*dict.fromkeys(each.name for each in estimates)]
    tested = {each.name for each in estimates if each.p_text}
    cells = {(each.group, each.name): each for each in estimates}
    columns = [""]
    for name in names:
        columns.append(name)
        if name in tested:
            columns.append("p")
    rows = []
    for group in dict.fromkeys(each.group for each in estimates):
        texts = []
        for name in names:
            each = cells.get((group, name))
            texts.append("" if each is None else cell_text(each))
            if name in tested:
                texts.append("" if each is None else each.p_text)
        control = all(each.control for each in estimates if each.group == group)
        rows.append(Row(group, tuple(texts), control, bold=group == MODEL))
    return Table(rows, heading, tuple(columns))


def cell_text(estimate: Estimate) -> str:
    """Write the value of an estimate, with its interval and its note on lines of their own."""
    value = estimate.result
    note = "" if estimate.note == value else estimate.note
    return "\n".join(filter(None, [value, estimate.interval_text, note]))


def side_by_side(names: Sequence[str], every: Sequence[Iterable[Estimate]]) -> list[Table]:
    """Arrange the estimates of several runs in tables with a column for each run."""
    rows: dict[str, dict[str, Row]] = {}
    for place, estimates in enumerate(every):
        for each in estimates:
            empty = Row(each.name, ("",) * len(names), each.control)
            row = rows.setdefault(heading_of(each), {}).setdefault(each.name, empty)
            cells = [*row.cells[:place], cell_text(each), *row.cells[place + 1 :]]
            rows[heading_of(each)][each.name] = row._replace(cells=tuple(cells))
    ordered = sorted(rows, key=lambda heading: heading != "")
    return [Table(list(rows[heading].values()), heading, ("", *names)) for heading in ordered]


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: bool = False
) -> list[str]:
    """Format a table as lines of Markdown, numbers to the right: all but the first column."""
    side = "---" if texts else "---:"
    lines = [columns, ["---", *[side] * (len(columns) - 1)], *rows]
    return ["| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines]


def markdown_cell(text: str) -> str:
    """Escape what would end a cell: bars and line breaks."""
    return " ".join(text.splitlines()).replace("|", "\\|")
