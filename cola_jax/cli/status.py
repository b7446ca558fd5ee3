"""`cola status`."""

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from cola_jax.cli.flags import Printing, console
from cola_jax.cli.report import print_json
from cola_jax.errors import count, shorten

if TYPE_CHECKING:
    from cola_jax.report.tables import Table

SHOWN = 10  # the last starts and failures that are printed
UNITS = {"days": 86400, "h": 3600, "min": 60}


@dataclasses.dataclass(frozen=True)
class Status(Printing):
    """Show how far a run is, even in progress elsewhere: machines, rate, time left, failures."""

    run_directory: Positional[str]
    """Run directory, also on gs:// or s3://."""

    def run(self) -> None:
        from cola_jax.report.terminal import TerminalTable
        from cola_jax.runs.run import Run
        from cola_jax.runs.status import read_progress

        progress = read_progress(Run(self.run_directory))
        if self.json:
            print_json(progress)
            return
        for table in filter(lambda table: table.rows, status_tables(progress)):
            console.print(TerminalTable(table))


def status_tables(progress: Mapping[str, Any]) -> "Iterator[Table]":
    """Yield the tables of a run: its progress, machines, last starts and last failures."""
    from cola_jax.report.document import run_title, title
    from cola_jax.report.tables import Row, Table
    from cola_jax.runs.estimates import number_text

    done, asked, starts = (progress[name] for name in ("done", "questions", "starts"))
    about, left, last = (progress[name] for name in ("estimated", "seconds_left", "last_part"))
    cost = "about " * about + f"{progress['evaluations']:,}"
    if done < asked and progress["evaluations_expected"] is not None:
        cost += f" of about {progress['evaluations_expected']:,}"
    rates = progress["questions_per_second"], progress["evaluations_per_second"]
    speed = "{:.3g} questions/s, {:.3g} evaluations/s"
    values = {
        "questions done": f"{done:,} of {asked:,} ({number_text(done / max(asked, 1), 'share')})",
        "unfinished": f"{max(asked - done, 0):,}, of them {progress['failed']:,} set aside",
        "evaluations": cost,
        "rate": "unknown" if None in rates else speed.format(*rates),
        "time left": progress["state"] if left is None else f"about {format_seconds(left)}",
        "last part written": ago(last) if last else "none by the last start",
    }
    rows = [Row(name, (value,)) for name, value in values.items()]
    yield Table(rows, run_title(starts[-1]) if starts else "", ("progress", ""))
    rows = []
    for each in progress["machines"]:
        share = number_text(each["questions"] / max(done, 1), "share")
        rows.append(Row(each["machine"], (f"{each['questions']:,}", share, ago(each["last_part"]))))
    yield Table(rows, columns=("machine", "questions", "share", "last part"))
    rows = []
    for each in starts[-SHOWN:]:
        costs = each.get("metrics")
        ended = "not ended" if costs is None else format_seconds(costs["seconds"])
        rows.append(Row(title(each["date"]), (title(each.get("device", "")), ended)))
    yield Table(rows, columns=(count(len(starts), "start"), "device", "ended after"))
    rows = []
    for each in progress["failures"][-SHOWN:]:
        label = title(f"{shorten(each['questions'])}: {each['reason']}")
        when = ago(datetime.fromisoformat(each["date"]))
        rows.append(Row(label, (title(each["machine"]), when)))
    yield Table(rows, columns=("set aside", "machine", "when"))


def ago(time: datetime) -> str:
    """Write how long ago a time was."""
    return f"{format_seconds((datetime.now(UTC) - time).total_seconds())} ago"


def format_seconds(seconds: float) -> str:
    """Format a time in the largest unit that gives at least 2."""
    for unit, size in UNITS.items():
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"
