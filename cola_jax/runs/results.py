"""`Results`: what a command measured, a list of estimates, and the file that holds it."""

import csv
import dataclasses
import html
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from cola_jax.errors import InputError, check_belongs, count, reading
from cola_jax.files import matching, read_json, readable_json, write_whole
from cola_jax.question import digest
from cola_jax.runs.compare import deciding
from cola_jax.runs.estimates import PREFERENCE, PREFERENCES, Estimate, sentences_of
from cola_jax.scoring.preference import Preference
from cola_jax.scoring.statistics import Z, number_or_none
from cola_jax.storage import AnyPath, path_of

RESULTS = "results.json"
DIGEST = "digest"  # of the content, in `run`; earlier versions wrote none
SHOWN = 10  # rows in a representation
WIDEST = 40  # characters of a path there
# what commands that make no run write besides, for other commands
BESIDE = {
    "static": "static.json",
    "menu": "menu.json",
    "distill": "router.json",
    "verify": "protocol.json",
}


class EditedError(InputError):
    """A file of results was changed after it was written, or the rows that it is of were."""


class Results(Sequence[Estimate]):
    """The estimates of a command, and facts of the run that they are of."""

    def __init__(self, estimates: Iterable[Estimate], run: Mapping[str, Any] | None = None):
        """Take estimates; `run` names the command, model, task, settings and versions."""
        self.estimates = tuple(estimates)
        self.run = dict(run or {})

    def __getitem__(self, place: Any) -> Any:
        return self.estimates[place]

    def __len__(self) -> int:
        return len(self.estimates)

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def find(self, name: str, group: str = "") -> Estimate | None:
        """Return the estimate of a name and group, None where there is none."""
        named = (each for each in self if each.name == name and each.group == group)
        return next(named, None)

    def value(self, name: str, group: str = "") -> float:
        """Return the value of the estimate of a name and group, NaN where there is none."""
        found = self.find(name, group)
        return math.nan if found is None else found.value

    def preference(self) -> Preference | None:
        """Return the model's preference for gold among what it was searched for, None for none.

        Earlier versions knew it by score alone.
        """
        if self.find(PREFERENCE) is None:
            return None
        found = [self.find(name) for name in PREFERENCES]
        values = [0.0 if each is None else each.value for each in found]
        errors = [0.0 if each is None else (each.high - each.value) / Z for each in found]
        return Preference(tuple(values), tuple(errors))

    @property
    def groups(self) -> list[str]:
        """The paths, claims, rules or runs that have estimates, in order."""
        return [*dict.fromkeys(each.group for each in self if each.group)]

    @property
    def sentences(self) -> list[str]:
        """What the estimates show: a sentence, of a trial one for each claim."""
        return sentences_of(self)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `results.json`, with a digest of it in `run`."""
        run = {name: value for name, value in self.run.items() if name != DIGEST}
        content = {
            "run": number_or_none(run),
            "sentences": self.sentences,
            "estimates": [each.to_json() for each in self],
        }
        written = json.loads(json.dumps(content, default=str))
        content["run"][DIGEST] = digest(written)
        return content

    def to_pandas(self) -> Any:
        """Make a DataFrame with a row for each estimate and its fields as columns; needs pandas."""
        import pandas

        names = [field.name for field in dataclasses.fields(Estimate)]
        return pandas.DataFrame([dataclasses.asdict(each) for each in self], columns=names)

    def to_csv(self) -> str:
        """Write a row for each estimate, with its fields as columns."""
        out = io.StringIO()
        names = [field.name for field in dataclasses.fields(Estimate)]
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(each.to_json() for each in self)
        return out.getvalue()

    def rows(self) -> list[tuple[str, ...]]:
        """Return the texts of the first estimates, after a head: one a row, or one group a row."""
        if self.groups:
            return group_rows([each for each in self if each.group])
        rows = [("", "value", "95 % interval", "n", "p")]
        for each in self.estimates[:SHOWN]:
            n = "" if each.n is None else f"{each.n:,}"
            rows.append((each.name, each.result, each.interval_text, n, each.p_text))
        return rows

    def more(self) -> str:
        """Say how many estimates or groups are not among `rows`, "" for none."""
        noun = "group" if self.groups else "estimate"
        left = len(self.groups or self.estimates) - SHOWN
        return f"... and {count(left, noun)} more: see to_pandas()" if left > 0 else ""

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(filter(None, [*self.sentences, *lines, self.more()]))

    def _repr_html_(self) -> str:
        head, *rows = self.rows()
        lines = "".join(html_row("td", row) for row in rows)
        table = f"<table>{html_row('th', head)}{lines}</table>"
        stated = "".join(f"<p><b>{html.escape(each)}</b></p>" for each in self.sentences)
        return f"{stated}{table}<p>{self.more()}</p>"


def group_rows(estimates: Sequence[Estimate]) -> list[tuple[str, ...]]:
    """Return the texts of estimates with a row for each group and a column for each name."""
    names = [*dict.fromkeys(each.name for each in estimates)]
    rows: dict[str, list[str]] = {}
    for each in estimates:
        row = rows.setdefault(each.group, [""] * len(names))
        interval = f" ({each.interval_text})" if each.interval_text else ""
        row[names.index(each.name)] = each.result + interval
    cells = [(shorten_middle(group), *row) for group, row in rows.items()]
    return [("", *names), *cells[:SHOWN]]


def shorten_middle(text: str) -> str:
    """Leave out the middle of a long path."""
    half = WIDEST // 2
    return text if len(text) <= WIDEST else f"{text[:half]}...{text[-half:]}"


def html_row(cell: str, texts: Iterable[str]) -> str:
    """Write a row of an HTML table."""
    cells = (f"<{cell}>{html.escape(text)}</{cell}>" for text in texts)
    return f"<tr>{''.join(cells)}</tr>"


def write_results(results: Results, file: AnyPath) -> None:
    """Write results as `results.json`."""
    content = readable_json(results.to_json(), default=str, allow_nan=False) + "\n"
    write_whole(file, content.encode())


def read_results(file: AnyPath) -> Results:
    """Read what `write_results` wrote; InputError for another file, EditedError for changes.

    A file of an earlier version has no digest that would tell.
    """
    action = "Give the results.json of this version: `cola report` and the command write it again."
    with reading(file, action):
        content = read_json(file)
        check_unchanged(file, content)
        # JSON has no NaN: a missing field is one
        estimates = TypeAdapter(list[Estimate]).validate_python(content["estimates"])
        results = Results(estimates, content["run"])
        results.sentences  # noqa: B018  raises where estimates that belong together are missing
    return results


def check_unchanged(file: AnyPath, content: Mapping[str, Any]) -> None:
    """Raise EditedError where the digest in a file's content does not fit it."""
    run = dict(content["run"])
    stated = run.pop(DIGEST, None)
    if stated is not None and stated != digest({**content, "run": run}):
        raise changed(file, content["run"])


def changed(file: AnyPath, run: Mapping[str, Any], what: str = "it was changed") -> EditedError:
    """Return the error for a file of results that no longer is what the command measured."""
    command = (run.get("settings") or {}).get("command", "COMMAND")
    again = f"run the same `cola {command}` again"
    if command not in BESIDE:
        again = f"run `cola report {path_of(file).parent}`"
    return EditedError(
        f"{file} does not say what was measured, as {what} after it was written: {again}, which "
        "writes it from the rows and evaluates nothing twice."
    )


def stored_results(directory: AnyPath) -> Results | None:
    """Read the results of a command that makes no run; None for another directory.

    Raises InputError where they are not there, as of earlier versions.
    """
    names = {file.name for file in matching(path_of(directory), "*.json")}
    for command, file in BESIDE.items():
        if file in names:
            if RESULTS not in names:
                raise InputError(
                    f"{directory} has {file} and no {RESULTS}: run the same `cola {command}` "
                    "again, which evaluates nothing twice."
                )
            return read_results(path_of(directory) / RESULTS)
    return None


def read_preference(file: AnyPath, settings: Mapping[str, Any]) -> Preference:
    """Read the model's preference for gold from the results of another search.

    Raises InputError for results without a preference, or of a run with a different model or
    prompts than these settings, and OSError for a file that cannot be read.
    """
    results = read_results(file)
    preference = results.preference()
    if preference is None:
        raise InputError(
            f"{file} has no preference: give the results.json of a search whose answers the model "
            "scores."
        )
    with reading(file):
        theirs = deciding(results.run["settings"])
    action = "give the results of a run with the same model and prompts"
    check_belongs(str(file), theirs, "this run", deciding(settings), action)
    return preference
