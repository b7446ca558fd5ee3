"""Tables of results: one row type for the terminal, Markdown and the page."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from rich.console import Group
from rich.text import Text

from cola_jax.deploy.model_card import literal
from cola_jax.errors import count
from cola_jax.report.terminal import TerminalTable
from cola_jax.runs.settings import again_count
from cola_jax.scoring.number_format import (
    Table,
    format_interval,
    format_percent,
    format_points,
)
from cola_jax.scoring.statistics import Effect
from cola_jax.strategies.rules import PRESETS

MAX_NAME, MAX_VALUE = 120, 1000  # characters of a title and of a setting


class RunReport(NamedTuple):
    """The results of a run, or of several, as the terminal, Markdown and the page show them."""

    title: str
    verdicts: list[str]  # a sentence for each run
    main: Table  # at most ten rows
    rest: list[Table]
    lead: str  # the size of the run, below its verdict
    note: str  # explains the tables
    settings: list[tuple[str, str]]


def terminal_report(report: RunReport, *, whole: bool = False) -> Group:
    """Format a report for a terminal, with all of its tables if `whole`."""
    parts = [Text(verdict, style="bold") for verdict in report.verdicts]
    parts.append(Text(report.lead, style="dim"))
    tables = [report.main, *(report.rest if whole else ())]
    shown = whole or not report.rest
    caption = report.note if shown else "All numbers: cola report --all, or the page."
    captions = [*[""] * (len(tables) - 1), caption]
    return Group(*parts, *map(TerminalTable, tables, captions))


def markdown_report(report: RunReport, *, whole: bool = False) -> str:
    """Format a report as Markdown, with all of its tables if `whole`."""
    lines = [f"# {literal(report.title)}", ""]
    for text in (*report.verdicts, report.lead):
        lines += [literal(text), ""]
    for table in (report.main, *(report.rest if whole else ())):
        lines += [f"## {literal(table.heading)}", ""] if table.heading else []
        rows = [("↳ " * row.control + row.label, *row.cells) for row in table.rows]
        columns, cells = map(literal, table.columns), (tuple(map(literal, row)) for row in rows)
        lines += [*markdown_table(tuple(columns), cells), ""]
    settings = [(literal(name), literal(value)) for name, value in report.settings]
    lines += [literal(report.note), "", "## Settings", "", *markdown_table(("", ""), settings)]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Format a table as lines of Markdown, with all but the first column to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return ["| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines]


def markdown_cell(text: str) -> str:
    """Escape what would end a cell: bars and line breaks."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def cost_texts(cost: float | None, total: float | None) -> list[str]:
    """Format milliseconds of layers, and their share of the model's `total`; [] where unknown."""
    if cost is None or not total:
        return []
    time = f"{cost:,.1f}" if cost >= 100 else f"{cost:.3g}"
    return [f"{time} ms", f"{100 * cost / total:.1f} %"]


def effect_cells(effect: Effect) -> list[str]:
    """Format accuracy, and the difference in points with its interval."""
    return [
        format_percent(effect.after.value),
        format_points(effect.difference.value),
        format_interval(effect.difference.interval, signed=True),
    ]


def run_title(start: Mapping[str, Any]) -> str:
    """Name the model and the task of a run."""
    return f"{model_name(start)} on {task_name(start)}"


def model_name(start: Mapping[str, Any]) -> str:
    """Return the name of the model: a Hub id, or the last part of a local path."""
    origin = start.get("origin") or {}
    name = str(origin.get("name") or start.get("model") or "unknown model")
    return title(name if origin.get("kind") == "hub" else PurePath(name).name.removesuffix(".gguf"))


def task_name(start: Mapping[str, Any]) -> str:
    """Return the name of the task, or the last part of a local path."""
    return title(PurePath(str(start.get("task", "unknown task"))).name)


def title(name: str) -> str:
    """Shorten a name for a title or legend, and replace characters that are not printable.

    Others could end the line, or turn the direction of the numbers that follow.
    """
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 3]}…{name[-MAX_NAME // 2 :]}"
    return "".join(char if char.isprintable() else "\ufffd" for char in short)


def cut_middle(text: str, limit: int) -> str:
    """Remove the middle of a long text, as the answer is often at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]} […{len(text) - limit:,} characters left out…] {text[-tail:]}"


def in_prompts(settings: Mapping[str, Any]) -> str:
    """Return the prompts in which a run asked its questions, for a sentence."""
    prompts = len(settings.get("choose_prompts") or ())
    if prompts:
        return f"each in one of {prompts} prompts"
    if again := again_count(settings):
        return f"asked again in {count(again, 'other wording')}"
    return "for this prompt alone"


def run_settings(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the recorded settings of a run and of its last start, to judge or repeat it."""
    settings, starts = manifest["settings"], manifest["starts"]
    named = {"preset name": preset_name(settings)} if settings.get("command") == "search" else {}
    values = [*flat(named | settings), *flat(starts[-1], f"start {len(starts)}: ")]
    texts = [
        (name, value if isinstance(value, str) else json.dumps(value)) for name, value in values
    ]
    return [(title(name), cut_middle(text, MAX_VALUE)) for name, text in texts]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested mappings that are not empty, with their names joined."""
    for name, value in values.items():
        label = prefix + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, f"{label}: ")
        elif value not in (None, "", [], ()):
            yield label, value


def preset_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the preset that has the values of a search."""
    strategy, values = settings.get("strategy", "tree"), settings.get("preset")
    named = (
        name
        for name, preset in PRESETS.items()
        if preset.name == strategy and values == dataclasses.asdict(preset)
    )
    return next(named, "custom")
