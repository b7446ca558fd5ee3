"""The run directory: its settings, its starts, and numbered part files of rows.

A part file is written whole, first its evaluations and then its questions; a question is done once
its part is in both folders. Evaluations of questions that are not done are written wave by wave to
a folder of their own, from which the next start takes them.
"""

import contextlib
import functools
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from etils import epath

from cola_jax.errors import InputError, reading, shown
from cola_jax.execute.metrics import Metrics
from cola_jax.files import check_links, hold, matching, read_json, readable_json, write_whole
from cola_jax.identity import digest, question_digest
from cola_jax.path import STOP, unpad_path
from cola_jax.runs.hosts import WHOLE, Shard
from cola_jax.runs.parts import by_question, read_part, read_parts, write_part
from cola_jax.runs.schema import EVALUATIONS, QUESTIONS, evaluation_rows, stored_verdict
from cola_jax.runs.settings import (
    Asked,
    Manifest,
    Start,
    asked_by_run,
    check_comparable,
    continues,
    other_settings,
)
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluations import Evaluations, Known, Write
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts

Path = tuple[int, ...]
MANIFEST = "run.json"
CONFIG = "config.yaml"
STARTS = "starts"
METRICS = ".metrics.json"  # of a start, beside its own file
KINDS = ("evaluations", "questions")
UNFINISHED = "unfinished"  # evaluations of questions that are not done
# of those: the variant in which a question was asked, 0 or null as it is, and its `asked_digest`
WAVES = EVALUATIONS.append(pa.field("variant", pa.int16())).append(pa.field("asked", pa.string()))


class Run:
    """A directory of results with one resolved configuration.

    Several processes may fill it, each with its own shard of the questions and part files.
    """

    def __init__(self, directory: epath.PathLike, shard: Shard = WHOLE):
        self.directory = epath.Path(directory)
        self.shard = shard
        self.done: set[str] = set()
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)  # unfinished, by question
        self.waves: dict[str, list[epath.Path]] = defaultdict(list)  # by a batch's first question
        self.number = 0  # of the next part

    @contextlib.contextmanager
    def open(
        self,
        settings: Mapping[str, Any],
        environment: Mapping[str, Any],
        here: Asked | None = None,
        *,
        again: bool = False,
    ) -> "Iterator[Run]":
        """Creates the directory, or opens it to go on.

        Args:
          settings: decide the rows; those of a run that is continued are the same, or ask for more
            questions, simulations or paths.
          environment: recorded of this start. The flags of the command, under the name `flags`, go
            to a file of their own, with which `--config` starts it again.
          here: what this command asks; a run that has its questions otherwise is refused.
          again: no question is done before all are; `replace` writes them.

        Yields the run, with `done`, the ids of the questions that are done. Raises InputError for
        a directory that is not a run or has other settings, and while another process fills it;
        OSError where it cannot be written.
        """
        self.refuse_foreign()
        settings = json.loads(json.dumps(settings))  # as JSON has it
        with self.locked():
            self.create(settings)
            if self.mark is None:
                raise InputError(
                    f"{self.directory} was made by an earlier version: choose another directory."
                )
            content = self.content()
            further = continues(self.directory, content["settings"], settings)
            if content["starts"] and here is not None:
                self.check_asked(here)
            if further:
                self.set_aside(keep=not settings.get("robust"))
            self.record_start(len(content["starts"]), settings, environment)
            self.number = len(self.parts("questions"))
            if again:
                self.load(self.parts("evaluations"), EVALUATIONS)
            else:
                self.done = set(self.questions(["question"])["question"].to_pylist())
            self.load(matching(self.directory / UNFINISHED, "*.parquet"), WAVES)
            yield self
            self.tidy(settings.get("questions"))

    def check_asked(self, asked: Asked) -> None:
        """Raises InputError where a run has other questions, or has them otherwise."""
        before = asked_by_run(self)
        check_comparable(before, asked)
        others = before.questions.keys() - asked.questions.keys()
        if others and self.shard == WHOLE:
            text = f"--task: it has other questions, such as {shown(min(others))}"
            raise other_settings(self.directory, [text])

    def create(self, settings: Mapping[str, Any]) -> None:
        """Writes the manifest where there is none; who comes second reads what the first wrote."""
        file = self.directory / MANIFEST
        self.directory.mkdir(parents=True, exist_ok=True)
        if not file.exists():  # before all else, by which another process knows a run
            write_whole(file, (readable_json({"settings": settings}) + "\n").encode())
        for folder in (*KINDS, STARTS):
            (self.directory / folder).mkdir(exist_ok=True)

    def record_start(
        self, number: int, settings: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        """Writes a file of this start, and that with which `--config` starts it again."""
        start = dict(environment)
        flags = start.pop("flags", None)
        self.start_file = self.directory / STARTS / f"{number:04d}-{uuid.uuid4().hex[:8]}.json"
        content = readable_json(start | {"settings": settings}) + "\n"
        write_whole(self.start_file, content.encode())
        if flags is not None:
            content = yaml.safe_dump(flags, sort_keys=False, allow_unicode=True)
            write_whole(self.directory / CONFIG, content.encode())

    def close(self, metrics: Mapping[str, Any]) -> None:
        """Records what this start did."""
        file = self.start_file.with_suffix(METRICS)  # no file of a start is written twice
        write_whole(file, (readable_json(dict(metrics)) + "\n").encode())

    def set_aside(self, keep: bool) -> None:
        """Moves the evaluations of all questions to those of unfinished ones.

        Those of a robust search are not kept, as they combine variants. Interrupted, it leaves a
        run whose remaining questions are done.
        """
        (self.directory / UNFINISHED).mkdir(exist_ok=True)
        for file in self.parts("evaluations"):
            if keep:
                file.replace(self.directory / UNFINISHED / f"{uuid.uuid4().hex}.parquet")
            else:
                file.unlink()
            (self.directory / "questions" / file.name).unlink()

    def replace(
        self, evaluations: Iterable[dict[str, Any]], questions: Sequence[dict[str, Any]]
    ) -> None:
        """Writes the rows of all questions, in place of those that are there."""
        self.set_aside(keep=True)
        self.write(evaluations, questions)

    def load(self, files: Sequence[epath.Path], schema: pa.Schema) -> None:
        """Reads evaluations of questions that are not done."""
        layers, mark = self.num_layers, self.mark
        for file in files:
            try:
                tables = by_question(read_part(file, schema, layers, mark))
            except FileNotFoundError:  # another shard has done its questions
                continue
            for name in tables.keys() - self.done:
                self.tables[name].append(tables[name])

    def known(self, encoded: Encoded, variant: int = 0) -> dict[Path, Verdicts]:
        """Returns the verdict [1] of each path that an earlier start evaluated of a question."""
        own = asked_digest(encoded)
        rows = [
            row
            for table in self.tables.get(encoded.question.id, ())
            for row in table.to_pylist()
            if (row.get("variant") or 0) == variant and row.get("asked") in (None, own)
        ]
        return {tuple(row["path"]): stored_verdict(row, encoded) for row in rows}

    def resume(
        self,
        evaluate: Evaluate,
        batch: Sequence[Encoded],
        metrics: Metrics,
        variant: int = 0,
        *,
        known: Known | None = None,
        call_size: int | None = None,
        write: bool = True,
    ) -> Evaluations:
        """Returns the evaluations of a batch, beside what an earlier start evaluated of it."""
        resumed = [self.known(encoded, variant) for encoded in batch]
        metrics.add(earlier=sum(map(len, resumed)))
        return Evaluations(
            evaluate,
            [encoded.question for encoded in batch],
            known=known,
            resumed=resumed,
            write=self.writer(batch, variant) if write else None,
            call_size=call_size,
        )

    def writer(self, batch: Sequence[Encoded], variant: int = 0) -> Write:
        """Returns a function that writes the new evaluations of a batch, in a variant."""

        def write(paths: np.ndarray, verdicts: Verdicts) -> None:
            rows = []
            for b, encoded in enumerate(batch):
                entries = np.flatnonzero(paths[b, :, 0] != STOP)
                written = [unpad_path(path) for path in paths[b, entries]]
                asked = {"variant": variant, "asked": asked_digest(encoded)}
                own = evaluation_rows(encoded, written, verdicts.take((b, entries)))
                rows += [row | asked for row in own]
            file = self.directory / UNFINISHED / f"{uuid.uuid4().hex}.parquet"
            self.write_rows(file, WAVES, rows)
            self.waves[batch[0].question.id].append(file)

        return write

    def write(
        self, evaluations: Iterable[dict[str, Any]], questions: Sequence[dict[str, Any]]
    ) -> None:
        """Writes the rows of questions that are done now; their waves are no longer needed."""
        name = f"{self.shard.prefix}{self.number:05d}-{uuid.uuid4().hex[:8]}.parquet"
        self.number += 1
        self.write_rows(self.directory / "evaluations" / name, EVALUATIONS, evaluations)
        self.write_rows(self.directory / "questions" / name, QUESTIONS, questions)
        for row in questions:
            self.tables.pop(row["question"], None)
            for file in self.waves.pop(row["question"], ()):
                file.unlink(missing_ok=True)

    def write_rows(
        self, file: epath.Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]
    ) -> None:
        """Writes rows to a file of the run, whole; OSError says what to do."""
        content = write_part(schema, rows, self.mark or "")
        try:
            file.parent.mkdir(exist_ok=True)
            write_whole(file, content)
        except OSError as error:
            raise OSError(
                f"the run {self.directory} cannot be written ({error}): what it has is kept. Make "
                "room or make it writable, and start the same command again."
            ) from error

    def tidy(self, questions: int | None) -> None:
        """Removes the evaluations of unfinished questions where all of them are done."""
        folder = self.directory / UNFINISHED
        if folder.exists() and self.questions(["question"]).num_rows == questions:
            with contextlib.suppress(FileNotFoundError):  # another shard does the same
                folder.rmtree()

    def refuse_foreign(self) -> None:
        """Raises InputError where the directory has files, but not those of a run alone."""
        check_links(self.directory)
        if not self.directory.exists():
            return
        # hidden files are what a start that was killed early leaves
        names = [entry.name for entry in self.directory.iterdir()]
        if MANIFEST not in names and any(not name.startswith(".") for name in names):
            raise InputError(
                f"{self.directory} is not empty and has no {MANIFEST}: choose another."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from the questions of this shard; InputError where one has some.

        The system drops the lock when its process ends, however it ends. Remote storage has no
        lock.
        """
        if "://" in str(self.directory):
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            own = self.directory / f".shard-{self.shard.index}-of-{self.shard.count}.lock"
            others = [file for file in matching(self.directory, ".shard-*.lock") if file != own]
            for file in [own, *others]:
                shard = Shard.parse(file.stem.removeprefix(".shard-").replace("-of-", "/"))
                if self.shard.overlaps(shard):
                    busy = (
                        f"another process is filling {self.directory} with shard {shard}: wait for "
                        "it, or choose another directory."
                    )
                    stack.enter_context(hold(file, busy))
            yield

    def settings(self) -> dict[str, Any]:
        """Returns the settings of the last start, those of the first before it is recorded."""
        return self.content()["settings"]

    def manifest(self) -> dict[str, Any]:
        """Reads the settings and one or more starts, as {"settings": ..., "starts": [...]}.

        InputError where the directory is not a run.
        """
        content = self.content()
        if not content["starts"]:
            raise InputError(
                f"{self.directory} has no start recorded: start the command that made it again."
            )
        return content

    def content(self) -> dict[str, Any]:
        """Reads the same of a run that may have no start yet."""
        file = self.directory / MANIFEST
        if not file.exists():
            raise InputError(f"{self.directory} has no {MANIFEST}: it is not a run directory.")
        check_links(self.directory)
        manifest = read_json(file)
        files = matching(self.directory / STARTS, "*.json")
        metrics = {file for file in files if file.name.endswith(METRICS)}
        with reading(file):
            starts, settings = [*manifest.get("starts", [])], manifest.get("settings")
        for each in files:
            if each in metrics:
                continue
            start, done = read_json(each), each.with_suffix(METRICS)
            if done in metrics:
                start["metrics"] = read_json(done)
            with reading(each):
                Start.model_validate(start)
            settings = start.pop("settings", settings)
            starts.append(start)
        content = {"settings": settings, "starts": starts}
        with reading(file, "Restore it, or start again in another directory."):
            Manifest.model_validate(content)
        return content

    @functools.cached_property
    def mark(self) -> str | None:
        """The digest of the first settings, which every part carries; None of earlier versions."""
        manifest = read_json(self.directory / MANIFEST)
        return None if "starts" in manifest else digest(manifest.get("settings"))

    def recorded(self, name: str) -> Any:
        """Returns a setting of a run; None for a new one."""
        if not (self.directory / MANIFEST).exists():
            return None
        return self.settings().get(name)

    def check_model(self, model: str) -> None:
        """Raises InputError unless this is a run, of the checkpoint with this identity."""
        there = self.settings().get("model")
        if there != model:
            raise InputError(
                f"{self.directory} is a run of another checkpoint ({there}, here it is {model}): "
                "give a run of this one."
            )

    def count_earlier(self, metrics: Metrics, num_layers: int) -> None:
        """Adds what earlier starts have done to the metrics of this one."""
        for row in self.questions(["evaluations", "baseline", "best", "controls"]).to_pylist():
            best, controls = row["best"], row["controls"] or ()
            metrics.add(
                earlier=row["evaluations"] + sum(c["evaluations"] - c["shared"] for c in controls),
                corrected=best is not None and row["baseline"] is False,
                shortened=best is not None and bool(row["baseline"]) and len(best) < num_layers,
            )

    def parts(self, kind: str) -> list[epath.Path]:
        """Lists the part files of a kind in order, without those that lack the other kind."""
        files = [{f.name for f in matching(self.directory / k, "part-*.parquet")} for k in KINDS]
        return [self.directory / kind / name for name in sorted(set.intersection(*files))]

    def questions(
        self, columns: Sequence[str] | None = None, files: Sequence[epath.Path] | None = None
    ) -> pa.Table:
        """Reads the questions that are done, or those of some part files.

        InputError where a question is twice among all, which takes too long for each part.
        """
        there = self.parts("questions") if files is None else files
        table = read_parts(there, QUESTIONS, columns, self.num_layers, self.mark)
        if files is None:
            check_once(self.directory, table, self.recorded("questions"))
        return table

    def evaluations(
        self, columns: Sequence[str] | None = None, files: Sequence[epath.Path] | None = None
    ) -> pa.Table:
        """Reads the evaluations of the questions that are done, or those of some part files."""
        files = self.parts("evaluations") if files is None else files
        return read_parts(files, EVALUATIONS, columns, self.num_layers, self.mark)

    @functools.cached_property
    def num_layers(self) -> int | None:
        """The model's layers, as the last start recorded them; None where it did not."""
        return self.manifest()["starts"][-1].get("num_layers")


def asked_digest(encoded: Encoded) -> str:
    """Returns the digest of a question as it is asked, for its stored evaluations."""
    return digest(question_digest(encoded.question), encoded.prompt_hash)[:16]


def check_once(directory: epath.Path, questions: pa.Table, planned: int | None) -> None:
    """Raises InputError where a question is in two rows, or there are more than a run asks."""
    if planned is not None and questions.num_rows > planned:
        raise InputError(
            f"{directory} has {questions.num_rows} questions, but its settings say {planned}: "
            "remove part files of other runs."
        )
    if "question" not in questions.column_names:
        return
    names = questions["question"].to_pylist()
    if len(set(names)) < len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(
            f"{directory} has the question {shown(name)} twice: remove one of the part files that "
            "have it."
        )
