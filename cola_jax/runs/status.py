"""The progress of a run, which other machines may be writing."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cola_jax.files import entries, for_each, inside
from cola_jax.runs.counts import COUNTED, count_evaluations
from cola_jax.runs.records import last_starts, start_order
from cola_jax.runs.run import Run
from cola_jax.runs.schema import PART, QUESTIONS, read_part, start_of

LARGE = 200  # parts above which a sample is read
SAMPLE = 50  # parts
HOUR = 3600  # the last seconds of a start that tell its rate
WINDOW = 200  # the last parts that do


class WrittenPart(NamedTuple):
    """A file of finished questions."""

    time: datetime
    file: epath.Path
    machine: str
    questions: int | None  # None where the name has no count
    evaluations: int | None = None  # once the file was read


def read_progress(run: Run) -> dict[str, Any]:
    """Read how far a run is; InputError where the directory is not a run.

    Lists the parts once. Reads up to 200 parts, of more at most 50, and those of earlier versions,
    whose names have no count. Parts that are not read may count a question twice.

    Returns:
      Counts of questions, with those that the settings ask for, and of evaluations; rates, times
      and `seconds_left` of the last start; machines, starts as they are recorded, and failures.
      None is unknown.
    """
    recorded = run.starts()
    failures = run.failures()
    settings = recorded[-1].settings if recorded else run.first_settings
    parts = read_counts(run, list_parts(run), robust=bool(settings.get("robust")))
    read = [part for part in parts if part.evaluations is not None]
    done = count_questions(parts)
    asked = settings.get("questions", 0)
    paths = len(settings.get("paths", ()))  # a search has none
    mean = sum(part.evaluations or 0 for part in read) / max(count_questions(read), 1) or paths
    failed = len({name for failure in failures for name in failure["questions"]})
    state = "not started"
    rate = None
    left = None
    recent = []
    if last := [start.record for start in last_starts(recorded)]:
        began = min(datetime.fromisoformat(start["date"]) for start in last)
        recent = [part for part in parts if part.time >= began]
        rate = questions_per_second(began, recent)
        state = "stopped" if all("metrics" in start for start in last) else "not ended"
        state = "finished" if done >= asked else state
        if rate is not None and state == "not ended":
            left = max(asked - done - failed, 0) / rate
    machines = defaultdict(list)
    for part in parts:
        machines[part.machine].append(part)
    return {
        "state": state,
        "questions": asked,
        "done": done,
        "failed": failed,
        "evaluations": round(mean * done),
        "evaluations_expected": round(mean * asked) or None,
        "estimated": len(read) < len(parts),  # from a sample of the parts
        "parts_read": len(read),
        "questions_per_second": rate,
        "evaluations_per_second": rate and rate * mean,
        "seconds_left": left,
        "first_part": recent[0].time if recent else None,
        "last_part": recent[-1].time if recent else None,
        "machines": [
            {"machine": name, "questions": count_questions(own), "last_part": own[-1].time}
            for name, own in sorted(machines.items())
        ],
        "starts": [start.record for start in recorded],
        "failures": failures,
    }


def list_parts(run: Run) -> list[WrittenPart]:
    """List the parts in the order in which they were written."""
    folder = run.place("questions")
    parts = []
    for name, time in entries(folder).items():
        if name.startswith("part-"):
            match = PART.match(name)
            machine = "unknown"
            questions = None
            if match and match["machine"]:  # names of the earliest versions have none
                machine = match["machine"]
                questions = int(match["questions"])
            parts.append(WrittenPart(time, inside(folder, name), machine, questions))
    return sorted(parts)


def read_counts(
    run: Run, parts: Sequence[WrittenPart], *, robust: bool = False
) -> list[WrittenPart]:
    """Read the counts of a sample of the parts, and of parts without counts in their names.

    A question that several of them have counts as readers of the rows take it: in the newest start,
    and there in the first part.
    """
    step = 1 if len(parts) <= LARGE else -(-len(parts) // SAMPLE)
    chosen = [part for i, part in enumerate(parts) if i % step == 0 or part.questions is None]

    def read(file: epath.Path) -> list[dict[str, Any]] | None:
        try:
            return read_part(file, QUESTIONS, run.layout, ["question", *COUNTED]).to_pylist()
        except FileNotFoundError:  # another command extends the run
            return None

    known = {}
    seen = set()
    ordered = sorted(chosen, key=lambda part: part.file.name)
    newest_first = sorted(
        ordered, key=lambda part: start_order(start_of(part.file.name)), reverse=True
    )
    rows_of = for_each(read, [part.file for part in newest_first])
    for part, rows in zip(newest_first, rows_of, strict=True):
        if rows is not None:
            rows = [row for row in rows if row["question"] not in seen]
            seen.update(row["question"] for row in rows)
            evaluations = count_evaluations(rows, robust=robust)
            known[part] = part._replace(questions=len(rows), evaluations=evaluations)
    return [known.get(part, part) for part in parts]


def count_questions(parts: Sequence[WrittenPart]) -> int:
    """Add up the questions of parts."""
    return sum(part.questions or 0 for part in parts)


def questions_per_second(began: datetime, parts: Sequence[WrittenPart]) -> float | None:
    """Return the rate of a start: the slope of a line through the questions done over time.

    Unlike a difference, it is right where many machines write a part at the same moment.
    """
    times = np.array([0, *((part.time - began).total_seconds() for part in parts)])
    done = np.cumsum([0, *(part.questions or 0 for part in parts)])
    recent = times >= min(times[-1] - HOUR, times[-WINDOW:][0])
    several = np.ptp(times[recent]) * np.ptp(done[recent]) > 0
    return float(np.polyfit(times[recent], done[recent], 1)[0]) if several else None
