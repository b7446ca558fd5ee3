"""The report of results: title, sentences, tables and settings, on a terminal or as Markdown."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from rich.console import Group
from rich.text import Text

from cola_jax.deploy.model_card import literal
from cola_jax.errors import count
from cola_jax.report.tables import (
    Table,
    group_table,
    markdown_table,
    protocol_table,
    side_by_side,
    tables_of,
)
from cola_jax.report.terminal import TerminalTable, visible
from cola_jax.runs.estimates import BEFORE, BEYOND, REACHED
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import SPENT
from cola_jax.runs.settings import again_count, differing
from cola_jax.strategies.rules import PRESETS

MAX_NAME = 120  # characters of a title
MAX_VALUE = 1000  # of a setting
EVALUATIONS = (SPENT, "evaluations")  # names of estimates
HELD_OUT = (
    "Points more: the difference to the pretrained model on held-out questions, of equal ones "
    "once, paired, with questions and, where there are three or more, prompts random. The chosen "
    "one was chosen on other questions. Intervals of differences are simultaneous, and p is "
    "corrected (Bonferroni), over all candidates and those of earlier results on some of these "
    "questions, which count as at least as many. The model as it is, the identity path, is "
    "recommended unless an interval lies above 0. "
)
IN_PROMPTS = (
    "Intervals: 95 %, of differences simultaneous over all paths, with questions and, where there "
    "are three or more, prompts random. Points more: the difference to the "
    "identity path; p: two-sided, corrected (Holm) for all paths; in each prompt, of the test that "
    "the prompts do not differ. The best of several paths is selected on these same questions, so "
    "its share is biased upwards: measure it on others. Evaluations that are not finite or "
    "ungraded count as wrong."
)
# how the tables of each command are read
NOTES = {
    "scan": "Points more: the difference to the pretrained model, paired over questions; margin: "
    "the same of the margin, in the unit of scores (nats; per character for options-norm). p, "
    "two-sided: the chance that the largest change of all blocks, up or down, would reach this if "
    "none had an effect; intervals hold for all blocks at once. The highest of many is high by "
    "luck too, so a block is also chosen on one half of the questions and prompts and measured on "
    "the other, both ways. With fewer than 16 prompts, all of this is about these alone. A skip is "
    "kept where no fewer questions are right.",
    "static": "Paths are tried on training questions, and chosen on those for validation, as is "
    "the Pareto front of accuracy (or, by the fitness kl, of the divergence from the model's own "
    "next token, or by agreement of the share of tokens of its own text, which read no answers) "
    "and cost, which is shown. Break-even: the agreement above which a path pays as a draft. "
    + HELD_OUT
    + "Where only paths "
    "with fewer layers were searched, the chosen one is named, whether or not it is as good.",
    "menu": "Layers are run for a prompt, prefixes shared; all rules but single and the selector "
    "run every path of the menu. Training: each fifth of the questions answered by paths and rules "
    "made from the other four. " + HELD_OUT.strip(),
    "distill": HELD_OUT.strip(),
    "verify": "Intervals: 95 %, simultaneous over all tests of the trial, with questions and, "
    "where there are three or more, prompts random. p: corrected (Holm) for all tests "
    "of the trial; of effects two-sided; in each prompt, of the test that the prompts "
    "do not differ. Place: that of the claim among random paths with the same edits, "
    "which is not a test, nor are the figures beside it. ShortGPT's path: as many "
    "layers, or attentions and MLPs, those of the largest influence; a vote: the "
    "majority of samples of the model at the cost of the claim. Above a guess: what "
    "the model has to lose. Loss "
    "excluded: the margin of `as good`, with the p-value of a loss of as much. Acceptance: "
    "the share of tokens of the model's own text that a path predicts; break-even: its share of "
    "the cost, above which it pays as a draft; its speed: with the best length of drafts, in "
    "tokens, as multiples of the model's.",
    "search": "Intervals: 95 %, simultaneous for what is tested. Tests are two-sided, and p is "
    "corrected (Holm) for all tests of the run. W→C counts questions that have a "
    "control: the same search for an answer that is neither correct nor the model's "
    "own. Expected: the correct answer is drawn among those searched for by the model's "
    "preference for their scores (log-probabilities of the answers to open questions; "
    "where these are not known, each is as likely), lengths and ranks; the interval "
    "beside it holds 95 % of such draws. Undecided: preference alone nearly decides "
    "which answer is gold. Ungraded: the grader failed; counts neither as correct nor "
    "as wrong. Truncated: the token limit ended the text before the answer was "
    "complete. Only the correct answer tells which path is right, so a search by itself "
    "answers no question.",
    "evaluate": "Intervals: 95 %, of differences simultaneous over all paths. Points more: the "
    "difference to the identity path, paired over questions; p: exact, two-sided, "
    "corrected (Holm) for all paths. The best of several paths is selected on these "
    "same questions, so its share is biased upwards: measure it on others. "
    "Evaluations that are not finite count as wrong; ungraded ones do not count.",
}


class Document(NamedTuple):
    """What is shown of results, the same on a terminal, in Markdown and on a page."""

    title: str
    sentences: list[str]
    lead: str  # the size of what was measured, below the sentences
    tables: list[Table]
    note: str  # explains the tables
    settings: list[tuple[str, str]]
    shown: int = 1  # tables that are shown always; the others are folded
    next: Sequence[str] = ("", "")  # what to do with the results, and the command

    @classmethod
    def of(cls, results: Results) -> "Document":
        """Arrange results."""
        settings = results.run.get("settings") or {}
        start = results.run.get("start") or {}
        tables = tables_of(results)
        protocol = protocol_table(results)
        if protocol is not None:
            tables = [protocol, *tables]
        return cls(
            title=run_title(start),
            sentences=results.sentences,
            lead=lead_of(results),
            tables=tables,
            shown=1 if protocol is None else 2,
            note=note_of(results),
            settings=run_settings(settings, start),
            next=results.run.get("next") or ("", ""),
        )


def note_of(results: Results) -> str:
    """Explain the tables of a command."""
    command = str((results.run.get("settings") or {}).get("command"))
    several = command == "evaluate" and results.run.get("prompts", 1) != 1
    return IN_PROMPTS if several else NOTES.get(command, "")


def compared(every: Mapping[str, Results], changes: Results) -> Document:
    """Arrange the results of several runs, by their names, and the changes from the first one."""
    documents = {name: Document.of(results) for name, results in every.items()}
    sentences = []
    settings = []
    for name, document in documents.items():
        sentences += [f"{name}: {sentence}" for sentence in document.sentences]
        settings += [(f"{name}: {key}", text) for key, text in document.settings]
    first, *tables = side_by_side([*every], [*every.values()])
    heading = f"Against {next(iter(every))}, on the questions of both"
    changed = group_table([*changes], heading)
    titles = dict.fromkeys(document.title for document in documents.values())
    return Document(
        title=", ".join(titles),
        sentences=[*sentences, *changes.sentences],
        lead=" ".join(f"{name}: {document.lead}" for name, document in documents.items()),
        tables=[first, changed, *tables],
        shown=2,
        note=next(iter(documents.values())).note,
        settings=settings,
    )


def several_tasks(every: Sequence[Results]) -> Group:
    """Arrange the results of a command on several tasks in one table."""
    estimates = []
    for results in every:
        task = task_name(results.run["start"])
        for each in results:
            if each.name in (BEFORE, REACHED, BEYOND) or each.group:
                group = f"{task}: {each.group}" if each.group else task
                estimates.append(dataclasses.replace(each, group=group))
    return Group(*map(TerminalTable, tables_of(estimates)))


def run_names(runs: Sequence[Run]) -> list[str]:
    """Name each run by the fewest last parts of its directory that tell it from the others."""
    parts = [PurePath(str(run.directory)).parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = [title("/".join(each[-length:])) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {title(str(run.directory))}" for number, run in enumerate(runs, 1)]


def terminal_report(document: Document, *, whole: bool = False) -> Group:
    """Format a report for a terminal, with all of its tables if `whole`."""
    parts = [Text(visible(sentence), style="bold") for sentence in document.sentences]
    parts.append(Text(visible(document.lead), style="dim"))
    tables = document.tables if whole else document.tables[: document.shown]
    caption = document.note
    if len(tables) < len(document.tables):
        caption = "All numbers: cola report --all, or the page."
    captions = [*[""] * (len(tables) - 1), caption]
    return Group(*parts, *map(TerminalTable, tables, captions))


def markdown_report(document: Document, *, whole: bool = False) -> str:
    """Format a report as Markdown, with all of its tables if `whole`."""
    lines = [f"# {literal(document.title)}", ""]
    for text in (*document.sentences, document.lead):
        lines += [literal(text), ""]
    for table in document.tables if whole else document.tables[: document.shown]:
        lines += [f"## {literal(table.heading)}", ""] if table.heading else []
        rows = [("↳ " * row.control + row.label, *row.cells) for row in table.rows]
        cells = (tuple(map(literal, row)) for row in rows)
        columns = tuple(map(literal, table.columns))
        lines += [*markdown_table(columns, cells, texts=table.texts), ""]
    settings = [(literal(name), literal(value)) for name, value in document.settings]
    text, command = document.next
    lines += [literal(document.note), ""]
    if text:
        lines += [literal(text), ""]
    if command:
        lines += [*fenced(command), ""]
    lines += ["## Settings", "", *markdown_table(("", ""), settings)]
    return "\n".join(lines) + "\n"


def fenced(command: str) -> list[str]:
    """Write a command as a block of Markdown, which no text in it can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return [fence, visible(command), fence]


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
    head = limit // 3
    tail = limit - head
    return f"{text[:head]} […{len(text) - limit:,} characters left out…] {text[-tail:]}"


def lead_of(results: Results) -> str:
    """State the size of what was measured."""
    settings = results.run.get("settings") or {}
    start = results.run.get("start") or {}
    evaluations = next((each for each in results if each.name in EVALUATIONS), None)
    size = "" if evaluations is None else f"{evaluations.text} evaluations on "
    held_out = results.run.get("held_out")
    if held_out is None:
        done = results.run["done"]
        planned = settings["questions"]
        unfinished = "" if done == planned else " (unfinished)"
        size += f"{done:,} of {planned:,} questions{unfinished}"
    else:
        size += f"{held_out:,} held-out questions"
    chosen = len(settings.get("choose_prompts") or ())
    asked = asked_in(results.run.get("prompts", 1))
    if chosen and held_out is None:
        asked = f"each in one of {chosen} prompts"
    if again := again_count(settings):
        asked = f"asked again in {count(again, 'other wording')}"
    if sizes := results.run.get("sizes"):  # of several tasks
        each = [
            f"{n:,} questions of {title(name)}, {asked_in(k)}" for name, (n, k) in sizes.items()
        ]
        size = "" if evaluations is None else f"{evaluations.text} evaluations on "
        size, asked = size + each[0], f"and {', and '.join(each[1:])}"
    lead = f"{size}, {asked}; {start['num_layers']} layers."
    if settings.get("command") == "benchmark":
        lead += f" {start['device']}, {settings['dtype']}, {start['date'][:10]}."
    return lead


def asked_in(prompts: int) -> str:
    """Say in how many prompts each question was asked."""
    return "for this prompt alone" if prompts == 1 else f"in {prompts} prompts"


def run_settings(settings: Mapping[str, Any], start: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the recorded settings of a run and of its last start, to judge or repeat it."""
    named = {"preset name": preset_name(settings)} if settings.get("command") == "search" else {}
    out = []
    for name, value in (*flat(named | dict(settings)), *flat(start, "start: ")):
        text = value if isinstance(value, str) else json.dumps(value)
        out.append((title(name), cut_middle(text, MAX_VALUE)))
    return out


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested mappings that are not empty, with their names joined."""
    for name, value in values.items():
        label = prefix + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, f"{label}: ")
        elif value not in (None, "", [], ()):
            yield label, value


def preset_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the preset that has the values of a search, of this or another version."""
    strategy = settings.get("strategy", "tree")
    values = settings.get("preset") or {}
    for name, preset in PRESETS.items():
        if preset.name == strategy and not differing(values, dataclasses.asdict(preset)):
            return name
    return "custom"
