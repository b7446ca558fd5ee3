"""The run directory: its settings, its starts, and numbered part files of rows.

A part is two files that are written whole, first that of its evaluations and then that of its
questions; a question is done once its part has both. Evaluations of unfinished questions are
written wave by wave to a folder of their own, from which the next start takes them, as it does from
parts without the file of their questions. Where storage has no lock, two processes may finish a
question: readers take it from the newest start, and there from the first part that has it.
"""

import contextlib
import dataclasses
import datetime
import functools
import html
import itertools
import json
import os
import shutil
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from etils import epath

from cola_jax.errors import InputError, count, shown
from cola_jax.files import (
    for_each,
    inside,
    matching,
    remove_files,
    store_of,
    write_whole,
)
from cola_jax.metrics import Metrics
from cola_jax.question import Question
from cola_jax.runs import path_results, search_results
from cola_jax.runs.blinding import check_verdict
from cola_jax.runs.chosen_on import COLUMNS, ChosenOn, keys_of_rows
from cola_jax.runs.compare import (
    ASKED,
    Asked,
    Comparison,
    asked_rows,
    check_complete,
    deciding,
)
from cola_jax.runs.counts import COUNTED, Counts
from cola_jax.runs.facts import Facts
from cola_jax.runs.lock import locked
from cola_jax.runs.records import (
    METRICS,
    START,
    Start,
    check_models,
    encode_record,
    last_starts,
    next_start,
    read_record,
    read_starts,
    start_order,
)
from cola_jax.runs.results import Results
from cola_jax.runs.schema import (
    EVALUATIONS,
    QUESTIONS,
    Part,
    RowLayout,
    by_question,
    host_name,
    join,
    part_name,
    part_stem,
    questions_of,
    read_part,
    row_layout_of,
    start_of,
)
from cola_jax.runs.settings import (
    FIRST_STREAM,
    asks_more,
    check_digests,
    continues,
    stream_of,
)
from cola_jax.runs.writes import Writes
from cola_jax.scoring import scorer_names
from cola_jax.scoring.preference import Preference
from cola_jax.storage import AnyPath, path_of
from cola_jax.strategies.reached import Ways

PartFiles = Mapping[str, epath.Path]  # the two files of a part, by table
MANIFEST = "run.json"
CONFIG = "config.yaml"
STARTS = "starts"
TABLES = ("evaluations", "questions")
UNFINISHED = "unfinished"  # folder of evaluations of unfinished questions
FAILED = "failed"  # folder of records of questions that an engine has set aside
SCHEMAS = {"evaluations": EVALUATIONS, "questions": QUESTIONS, UNFINISHED: EVALUATIONS}


@dataclasses.dataclass(eq=False)
class Wave:
    """A file of evaluations of questions, which goes when the last of them is finished."""

    left: set[str]  # ids of its unfinished questions
    file: epath.Path | None = None  # once it is written


class Run:
    """A directory of results; processes that share it fill it together, each with questions."""

    def __init__(self, directory: AnyPath, *, shared: bool = False):
        self.directory = path_of(directory)
        self.shared = shared  # with the other processes of a distributed start
        self.metrics = Metrics()
        self.done: set[str] = set()  # ids of the finished questions
        self.earlier: dict[str, list[pa.Table]] = defaultdict(list)  # unfinished, of past starts
        self.earlier_results = Counts()
        self.read_parts: set[str] = set()  # stems of parts whose questions are in `done`
        self.waves: dict[str, list[Wave]] = defaultdict(list)  # of this start, by question
        self.number = 0  # of the next part
        self.start = ""  # name of the record of this start
        self.writes: Writes | None = None  # of a run that is open
        self.lock = threading.Lock()  # of what threads change when they have written

    def __repr__(self) -> str:
        return "\n".join(self.describe())

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(map(html.escape, self.describe()))}</p>"

    def summary(self, preference: Preference | None = None) -> Results:
        """Summarise the questions done so far, of a search or of given paths.

        The preference is that of another search with the model; by default fitted to this one.
        Raises InputError for a run of another command, for one without a question done, and for one
        of a trial that has no verdict yet.
        """
        facts = self.facts()
        check_verdict(self.directory, facts.settings)
        if facts.command != "search" and "paths" not in facts.settings:
            raise InputError(
                f"{self.directory} was made by {shown(facts.command)}, not by a search or an "
                f"evaluation of given paths: see `cola report {self.directory}`."
            )
        is_search = facts.command == "search"
        questions = self.questions(search_results.COLUMNS if is_search else ["question"])
        if not questions.num_rows:
            raise InputError(f"{self.directory} has no question done yet: let the run go on first.")
        if is_search:
            estimates = search_results.run_estimates(
                search_results.ways_of(questions, facts),
                questions,
                self.counted_evaluations(search_results.EVALUATED),
                facts,
                preference,
            )
            if facts.settings.get("prior"):
                keys = self.question_keys().values()
                estimates += search_results.prior_estimates(facts, keys)
        else:
            rows = self.counted_evaluations(path_results.EVALUATED)
            estimates = path_results.run_estimates(rows, facts)
        recorded = facts.to_json() | {"done": questions.num_rows}
        if is_search or len(facts.paths) > 1:  # a single path is not chosen
            recorded |= self.chosen_on().field()
        return Results(estimates, recorded)

    def counted_evaluations(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of the evaluations, `tokens` as `num_tokens`, their number.

        Reads one part at a time, as the token ids of a whole run may exceed the memory.
        """

        def counted(part: pa.Table) -> pa.Table:
            counts = pc.call_function("list_value_length", [part["tokens"]])
            return part.drop_columns("tokens").append_column("num_tokens", counts)

        empty = self.empty("evaluations").select(columns)
        return join([counted(empty)], map(counted, self.tables("evaluations", columns)))

    def chosen_on(self) -> ChosenOn:
        """Read the questions that are done, and the wordings in which they were asked.

        Whoever takes a path from the run has chosen it on these.
        """
        return ChosenOn.of_keys(self.question_keys().values(), self.facts().settings)

    def question_keys(self) -> dict[str, str]:
        """Read the keys of the questions that are done by their ids; equal ones share theirs."""
        facts = self.facts()
        # the scorer's name tells it in runs of earlier versions
        is_open = facts.is_open or facts.settings.get("scorer") in scorer_names(open=True)
        return keys_of_rows(self.tables("questions", COLUMNS), is_open=is_open)

    def ways(self) -> Ways:
        """Read what the searches of the run reached."""
        return search_results.ways_of(self.questions(search_results.COLUMNS), self.facts())

    def facts(self) -> Facts:
        """Read the settings of the run, and the record of its last start.

        Raises InputError where it is not a run, or has no start.
        """
        settings, starts = self.read_starts()
        if not starts:
            raise InputError(
                f"{self.directory} has no start recorded: start the command that made it again."
            )
        return Facts(settings, starts[-1])

    def asked(self) -> Asked:
        """Read the settings that decide verdicts, and the questions."""
        return Asked(
            str(self.directory),
            self.settings(),
            lambda: asked_rows(self.tables("questions", ASKED)),
        )

    def describe(self) -> list[str]:
        """Describe the content of the directory in a few lines."""
        try:
            settings, starts = self.read_starts()
            done = self.questions(["question"]).num_rows
        except (InputError, OSError):
            return [f"Run in {self.directory}, which is no run yet or cannot be read"]
        model = starts[-1].get("model") if starts else None
        return [
            f"Run of `cola {settings.get('command')}` in {self.directory}",
            f"{done} of {count(settings.get('questions', 0), 'question')} done, scorer "
            f"{settings.get('scorer')}, model {model}",
            f"see `cola report {self.directory}`",
        ]

    @contextlib.contextmanager
    def open(
        self,
        settings: Mapping[str, Any],
        environment: Mapping[str, Any],
        asked: Asked | None = None,
        *,
        metrics: Metrics | None = None,
    ) -> "Iterator[Run]":
        """Create the directory, or resume it.

        Args:
          settings: decide the rows; a run continues with the same settings, or with more questions,
            simulations or paths.
          environment: recorded with this start. Its entry `flags`, those of the command, goes to a
            file for `--config`.
          asked: questions of this command; a run that asks them differently is refused.
          metrics: recorded at the end of this start.

        Raises InputError for a directory that is not a run or has other settings, and while another
        process fills it; OSError where it cannot be written.
        """
        is_new = not self.exists()
        settings = json.loads(json.dumps(settings))  # as JSON has it
        with locked(self.directory, shared=self.shared):
            if is_new:
                self.create(settings)
            starts = self.starts()
            before = starts[-1].settings if starts else self.first_settings
            source = starts[-1].record.get("model") if starts else None
            continues(self.directory, before, settings, (source, environment.get("model")))
            parts, alone = self.listed()
            outgrown = self.outgrown(parts, starts, settings)
            self.check_streams(outgrown, starts, settings)
            kept = [part for part in parts if part not in outgrown]
            comparison = None
            if asked is not None:
                comparison = Comparison(str(self.directory), deciding(before), asked)
                comparison.add(asked_rows(self.tables("questions", ASKED, outgrown)))
            self.load_finished(kept, settings, comparison)
            if starts and comparison is not None:
                comparison.check()
                if not self.shared:
                    check_complete(self.directory, comparison)
            check_digests(self.directory, before, settings)
            remove_files([part["questions"] for part in outgrown])
            self.start = next_start(start.name for start in starts)
            start_file = self.record_start(settings, environment)
            self.load_unfinished(alone + [part["evaluations"] for part in outgrown])
            self.metrics = metrics or Metrics()
            try:
                with Writes() as self.writes:
                    yield self
            finally:
                self.writes = None
                if metrics is not None:  # in another file, as none is written twice
                    write_whole(start_file.with_suffix(METRICS), encode_record(metrics.report()))
            self.tidy(settings.get("questions"))

    def place(self, name: str) -> epath.Path:
        """Return the path of a folder or file of the run; InputError as `inside`."""
        return inside(self.directory, name)

    def missing(self, questions: Sequence[Question]) -> list[int]:
        """Return the indices of the questions that are not finished."""
        return [i for i, question in enumerate(questions) if question.id not in self.done]

    def write(self, part: Part, machine: str | None = None) -> None:
        """Write the rows of finished questions, and remove earlier rows of theirs.

        A part without finished questions has evaluations of unfinished ones, which are kept until
        these are finished. `machine` is the host that evaluated them, this one by default.

        Returns at once, unless many others are being written. Raises the first error of an earlier
        part; all are written when the run is closed.
        """
        if part.questions:
            stem = part_stem(self.start, self.number, len(part.questions), machine)
            self.number += 1
            write = functools.partial(self.write_finished, stem, part)
        else:
            with self.lock:
                wave = Wave(questions_of(part.evaluations) - self.done)
                for name in wave.left:
                    self.waves[name].append(wave)
            if not wave.left:  # of a batch that was finished elsewhere meanwhile
                return
            write = functools.partial(self.write_wave_file, wave, part)
        if self.writes is None:
            write()
        else:
            self.writes.submit(write)

    def flush(self) -> None:
        """Wait until all parts are written; raises the first error."""
        if self.writes is not None:
            self.writes.flush()

    def write_finished(self, stem: str, part: Part) -> None:
        """Write the two files of a part, and remove the waves that it finishes."""
        self.write_rows("evaluations", stem, part.evaluations)
        questions = part.questions if part.content is None else part.content
        self.write_rows("questions", stem, questions)
        finished = []
        with self.lock:
            self.read_parts.add(stem)
            for row in part.questions:
                name = row["question"]
                self.done.add(name)
                self.earlier.pop(name, None)
                for wave in self.waves.pop(name, ()):
                    wave.left.discard(name)
                    if not wave.left and wave.file is not None:
                        finished.append(wave.file)
        remove_files(finished)

    def write_wave_file(self, wave: Wave, part: Part) -> None:
        """Write evaluations of unfinished questions, unless these were finished meanwhile."""
        if not wave.left:
            return
        file = self.write_rows(UNFINISHED, uuid.uuid4().hex, part.evaluations)
        with self.lock:
            wave.file = file
            is_over = not wave.left
        if is_over:
            remove_files([file])

    def fail(self, questions: Sequence[str], reason: str, machine: str) -> None:
        """Record questions, by their ids, that this start sets aside; the next one tries again."""
        file = self.place(FAILED) / f"{self.start}-{uuid.uuid4().hex}.json"
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        failure = {"questions": list(questions), "reason": reason, "date": date}
        write_whole(file, encode_record(failure | {"machine": host_name(machine)}))

    def failures(self) -> list[dict[str, Any]]:
        """Read the records of `fail` by the last start, oldest first."""
        names = {start.name for start in last_starts(self.starts())}
        every = matching(self.place(FAILED), "*.json")
        files = [file for file in every if start_of_failure(file.name) in names]
        return sorted(for_each(read_record, files), key=lambda record: record["date"])

    def replace(self, part: Part) -> None:
        """Write the rows of all questions, in place of those of earlier starts."""
        self.set_aside()
        self.write(part)

    def write_rows(
        self, folder: str, stem: str, rows: Iterable[dict[str, Any]] | bytes
    ) -> epath.Path:
        """Write rows, or their encoded content, to a whole file of the run."""
        content = rows if isinstance(rows, bytes) else self.layout.encode(SCHEMAS[folder], rows)
        file = self.place(folder) / part_name(stem, content)
        write_whole(file, content)
        return file

    def create(self, settings: Mapping[str, Any]) -> None:
        """Write the manifest if there is none; a second process reads that of the first."""
        # first of all, as it marks a run for other processes
        content = encode_record({"settings": settings})
        store_of(self.directory).create(self.directory / MANIFEST, content)

    def record_start(
        self, settings: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> epath.Path:
        """Write a file of this start, and its flags as a file for `--config`."""
        start = dict(environment)
        flags = start.pop("flags", None)
        file = self.place(STARTS) / f"{self.start}.json"
        write_whole(file, encode_record(start | {"settings": settings}))
        if flags is not None:
            content = yaml.safe_dump(flags, sort_keys=False, allow_unicode=True)
            write_whole(self.directory / CONFIG, content.encode())
        return file

    def set_aside(self) -> None:
        """Make all questions unfinished, with their evaluations.

        If interrupted, it leaves a run with some of the questions.
        """
        self.done.clear()
        remove_files([part["questions"] for part in self.parts()])

    def outgrown(
        self, parts: Sequence[PartFiles], starts: Sequence[Start], settings: Mapping[str, Any]
    ) -> list[PartFiles]:
        """Return the parts of starts that asked for fewer evaluations of each question.

        Parts of earlier versions do not tell their start: they are taken for those of the last.
        """
        last = starts[-1].settings if starts else self.first_settings
        less = {start.name: asks_more(start.settings, settings) for start in starts}
        default = asks_more(last, settings)
        return [part for part in parts if less.get(start_of(part["questions"].name), default)]

    def check_streams(
        self, parts: Sequence[PartFiles], starts: Sequence[Start], settings: Mapping[str, Any]
    ) -> None:
        """Raise InputError where searches of an earlier stream of random numbers would go on.

        From the same seed they drew other paths than they would now. Parts without a start are of
        the first stream.
        """
        streams = {start.name: stream_of(start.settings) for start in starts}
        theirs = {streams.get(start_of(stem_of(part)), FIRST_STREAM) for part in parts}
        if theirs - {stream_of(settings)}:
            last = starts[-1].settings if starts else self.first_settings
            raise InputError(
                f"{self.directory} has questions that an earlier version searched, whose trees "
                "drew other paths from the same seed, so --simulations cannot grow there: repeat "
                f"--simulations {last['simulations']}, or choose another directory, with --reuse "
                f"{self.directory}, which loses no evaluation."
            )

    def load_finished(
        self,
        parts: Sequence[PartFiles],
        settings: Mapping[str, Any],
        comparison: Comparison | None,
    ) -> None:
        """Read the finished questions with their costs and outcomes, and compare them."""
        self.earlier_results.costs = self.layout.costs
        columns = ["question", "evaluations"]
        if settings.get("command") == "search":
            columns = ["question", *COUNTED, "baseline", "best"]
        more = [] if comparison is None else ASKED
        for table in self.tables("questions", [*dict.fromkeys([*columns, *more])], parts):
            self.done.update(table["question"].to_pylist())
            self.earlier_results.add(table.select(columns), robust=bool(settings.get("robust")))
            if comparison is not None:
                comparison.add(asked_rows([table]))
        self.read_parts.update(stem_of(part) for part in parts)

    def load_unfinished(self, files: Sequence[epath.Path]) -> None:
        """Read the evaluations of unfinished questions, from files of parts and of waves."""

        def read(file: epath.Path) -> pa.Table:
            try:
                return read_part(file, EVALUATIONS, self.layout)
            except FileNotFoundError:  # another process has finished its questions
                return self.empty("evaluations")

        for table in for_each(read, [*files, *self.wave_files()]):
            for name, rows in by_question(table).items():
                if name not in self.done:
                    self.earlier[name].append(rows)

    def wave_files(self) -> list[epath.Path]:
        """List the files of evaluations that were written wave by wave."""
        return matching(self.place(UNFINISHED), "*.parquet")

    def load_evaluations(self) -> None:
        """Read the evaluations of finished questions as well, for a search over all questions."""
        for name, rows in by_question(self.evaluations()).items():
            self.earlier[name].append(rows)

    def tidy(self, questions: int | None) -> None:
        """Remove the evaluations of unfinished questions when all questions are done."""
        folder = self.place(UNFINISHED)  # of local files, with what a killed process left
        is_local = os.path.isdir(folder)
        if not (is_local or self.unfinished_files()):
            return
        parts = self.parts()
        for table in self.tables("questions", ["question"], self.unread(parts)):
            self.done.update(table["question"].to_pylist())
        if len(self.done) == questions:
            remove_files(self.unfinished_files())  # again: other processes may have completed parts
            if is_local:
                shutil.rmtree(folder, ignore_errors=True)

    def unread(self, parts: Sequence[PartFiles]) -> list[PartFiles]:
        """Return the parts that other processes have written since this start."""
        return [part for part in parts if stem_of(part) not in self.read_parts]

    def unfinished_files(self) -> list[epath.Path]:
        """List the files of evaluations of unfinished questions."""
        return self.listed()[1] + self.wave_files()

    def exists(self) -> bool:
        """Return whether the directory has a run; InputError for a directory of other files."""
        # a start that was killed early leaves hidden files
        names = [file.name for file in matching(self.directory, "*")]
        if names and MANIFEST not in names:
            raise InputError(
                f"{self.directory} is not empty and has no {MANIFEST}: choose another."
            )
        return bool(names)

    @functools.cached_property
    def first_settings(self) -> Any:
        """The settings of the first start; InputError where the directory is not a run."""
        try:
            return read_record(self.place(MANIFEST))["settings"]
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.directory} has no {MANIFEST}: it is not a run directory."
            ) from None

    @functools.cached_property
    def mark(self) -> str:
        """The metadata of every part: the digest of the first settings, and the model."""
        return self.layout.mark

    @functools.cached_property
    def layout(self) -> RowLayout:
        """How the rows are written."""
        return row_layout_of(self.first_settings)

    def empty(self, kind: str) -> pa.Table:
        """Return one of the tables without rows."""
        return self.layout.loaded(SCHEMAS[kind]).empty_table()

    def starts(self) -> list[Start]:
        """Read the starts in order; InputError for one of another model than the run."""
        starts = read_starts(self.place(STARTS))
        check_models(self.directory, self.first_settings, starts)
        return starts

    def read_starts(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Read the settings of the last start, and all starts, of which there may be none yet."""
        first = self.first_settings
        starts = self.starts()
        return starts[-1].settings if starts else first, [start.record for start in starts]

    def settings(self) -> dict[str, Any]:
        """Return the settings of the last start, those of the first before it is recorded."""
        return self.read_starts()[0]

    def count_earlier(self, num_layers: int) -> None:
        """Add the results of earlier starts to the metrics."""
        results = self.earlier_results
        self.metrics.add(earlier=results.evaluations, **results.improvements(num_layers))

    def listed(self) -> tuple[list[PartFiles], list[epath.Path]]:
        """List the parts by start, and files of evaluations without that of their questions."""
        parts: dict[str, dict[str, epath.Path]] = defaultdict(dict)
        for kind in TABLES:
            for file in matching(self.place(kind), "part-*.parquet"):
                parts[file.name.partition(".")[0]][kind] = file
        alone = [part["evaluations"] for part in parts.values() if [*part] == ["evaluations"]]
        stems = sorted(parts, key=lambda stem: (start_order(start_of(stem)), stem))
        return [parts[stem] for stem in stems if len(parts[stem]) == len(TABLES)], alone

    def parts(self) -> list[PartFiles]:
        """List the parts in order, without those that lack one of their two files."""
        return self.listed()[0]

    def questions(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the finished questions."""
        return self.read("questions", columns)

    def evaluations(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the evaluations of the finished questions."""
        return self.read("evaluations", columns)

    def read(self, kind: str, columns: Sequence[str] | None) -> pa.Table:
        """Read columns of one of the two tables, by default all."""
        names = list(columns or SCHEMAS[kind].names)
        empty = self.empty(kind).select(names)
        seen = set()
        newest_first = []
        for parts in reversed(by_start(self.parts())):
            newest_first.append(join([empty], self.new_rows(kind, names, parts, seen)))
        return pa.concat_tables([empty, *reversed(newest_first)])

    def tables(
        self,
        kind: str,
        columns: Sequence[str] | None = None,
        parts: Sequence[PartFiles] | None = None,
    ) -> Iterator[pa.Table]:
        """Read columns of a table part by part; the rows of a question are in one of them.

        The parts of the newest start come first: those that it wrote again count, even where an
        older start ends later.
        """
        seen: set[str] = set()
        names = list(columns or SCHEMAS[kind].names)
        for group in reversed(by_start(self.parts() if parts is None else parts)):
            yield from self.new_rows(kind, names, group, seen)

    def new_rows(
        self, kind: str, names: list[str], parts: Sequence[PartFiles], seen: set[str]
    ) -> Iterator[pa.Table]:
        """Read parts in order, without the questions that were seen before, which grow."""
        schema = SCHEMAS[kind]
        wanted = [*dict.fromkeys(["question", *names])]
        files = [part[kind] for part in parts]
        for table in for_each(lambda file: read_part(file, schema, self.layout, wanted), files):
            own = table["question"].unique().to_pylist()
            if twice := seen.intersection(own):
                table = table.filter(~pc.field("question").isin(sorted(twice)))
            seen.update(own)
            yield table.select(names)


def stem_of(part: PartFiles) -> str:
    """Return the beginning of the names of a part's files."""
    return part["questions"].name.partition(".")[0]


def start_of_failure(name: str) -> str:
    """Return the start of a record of questions that were set aside."""
    match = START.match(name)
    return match[0] if match else ""


def by_start(parts: Sequence[PartFiles]) -> list[list[PartFiles]]:
    """Group parts in their order by the start that wrote them."""
    groups = itertools.groupby(parts, lambda part: start_of(part["questions"].name))
    return [list(group) for _, group in groups]
