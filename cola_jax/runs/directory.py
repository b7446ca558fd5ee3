"""The run directory: a manifest and numbered part files, so that an interrupted run can resume.

A part file is written whole and renamed into place, first its evaluations and then its questions;
a question is done once its part is in both folders, so whatever an interruption leaves incomplete
is written again under the same number.
"""

import contextlib
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from etils import epath

from cola_jax.errors import InputError, is_full, shown
from cola_jax.execute.metrics import Metrics
from cola_jax.files import check_links, matching, read_bytes, readable_json, write_whole
from cola_jax.runs.growth import check_same
from cola_jax.runs.manifest import parse_manifest
from cola_jax.runs.part_files import read_parts
from cola_jax.runs.schema import EVALUATIONS, QUESTIONS
from cola_jax.runs.shard import WHOLE, Shard

MANIFEST = "run.json"
CONFIG = "config.yaml"
KINDS = ("evaluations", "questions")
LOCK = re.compile(r"\.shard-([0-9]{1,9})-of-([0-9]{1,9})\.lock")
UNFINISHED = "unfinished"  # evaluations of questions that are not done: see `Journal`


def held(file: epath.Path) -> bool:
    """Whether a process holds a lock."""
    try:
        with filelock.FileLock(str(file)).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


class RunDirectory:
    """A directory of results with one resolved configuration.

    Several processes may fill it, each with its own shard of the questions and part files.
    """

    def __init__(self, directory: epath.PathLike, shard: Shard = WHOLE):
        self.directory = epath.Path(directory)
        self.shard = shard
        self.free = self.free_names()

    def open(
        self,
        settings: Mapping[str, Any],
        environment: Mapping[str, Any],
        continues: "Callable[[Mapping[str, Any]], bool] | None" = None,
    ) -> set[str]:
        """Creates the directory or resumes it; returns the ids of the questions that are done.

        `settings` decide the rows; `environment` (versions, device) is recorded for each start.
        `continues` takes the settings that the run was created with: it raises ValueError where
        they cannot be continued with these, and says whether every question has to be evaluated
        further; settings must be the same when None. Raises ValueError also where the directory is
        not a run; OSError where it cannot be written. The flags of the command, under the name
        `flags`, go to a file of their own, with which `--config` starts it again.
        """
        self.refuse_foreign()
        with self.exclusive():
            starts = []
            if (self.directory / MANIFEST).exists():
                manifest = self.manifest()
                starts = manifest["starts"]
                if continues is None:
                    check_same(self.directory, manifest["settings"], dict(settings))
                elif continues(manifest["settings"]):
                    self.set_aside()
            start = dict(environment)
            flags = start.pop("flags", None)
            self.write_manifest({"settings": dict(settings), "starts": [*starts, start]})
            if flags is not None:
                content = yaml.safe_dump(flags, sort_keys=False, allow_unicode=True)
                write_whole(self.directory / CONFIG, content.encode())
        self.free = self.free_names()
        return {row["question"] for row in self.questions(["question"]).to_pylist()}

    def set_aside(self) -> None:
        """Moves the evaluations of all questions to those of unfinished ones.

        ValueError where another process is filling the run. Interrupted, it leaves a run whose
        remaining questions are done.
        """
        if others := [shard for shard, file in self.locks() if shard != self.shard and held(file)]:
            raise InputError(
                f"another process is filling {self.directory} with shard {others[0]}: wait for it "
                "before the run is continued with more evaluations."
            )
        (self.directory / UNFINISHED).mkdir(exist_ok=True)
        time = len(self.manifest()["starts"])  # so that each time has names of its own
        for file in self.parts("evaluations"):
            file.replace(self.directory / UNFINISHED / f"{time}-{file.name}")
            (self.directory / "questions" / file.name).unlink()

    def discard(self) -> None:
        """Removes all evaluations."""
        for kind in (*reversed(KINDS), UNFINISHED):
            for file in matching(self.directory / kind, "*.parquet"):
                file.unlink()

    def tidy(self, questions: int) -> None:
        """Removes the evaluations of unfinished questions where all of them are done."""
        folder = self.directory / UNFINISHED
        if folder.exists() and self.questions(["question"]).num_rows == questions:
            folder.rmtree()

    def locks(self) -> "list[tuple[Shard, epath.Path]]":
        """Lists the shards that some process has filled, each with the file that it locks."""
        found = []
        for file in matching(self.directory, ".shard-*.lock"):
            if match := LOCK.fullmatch(file.name):
                found.append((Shard(int(match[1]), int(match[2])), file))
        return found

    def recorded(self, name: str) -> Any:
        """Returns a setting that the run was created with; None for a new run."""
        if not (self.directory / MANIFEST).exists():
            return None
        return self.manifest()["settings"].get(name)

    def check_model(self, model: str) -> None:
        """Raises ValueError unless this is a run, of the checkpoint with this identity."""
        there = self.manifest()["settings"].get("model")
        if there != model:
            raise InputError(
                f"{self.directory} is a run of another checkpoint ({there}, here it is {model}): "
                "give a run of this one."
            )

    def count_earlier(self, metrics: Metrics, num_layers: int) -> None:
        """Adds what earlier starts have done to the metrics of this one."""
        table = self.questions(["evaluations", "baseline", "best", "controls"])
        for batch in table.to_batches():
            rows = batch.to_pylist()
            right = [row for row in rows if row["best"] is not None]
            kept = [row for row in right if row["baseline"]]
            controls = [control for row in rows for control in row["controls"] or []]
            metrics.add(
                earlier=sum(row["evaluations"] for row in rows)
                + sum(control["evaluations"] - control["shared"] for control in controls),
                corrected=sum(row["baseline"] is False for row in right),
                shortened=sum(len(row["best"]) < num_layers for row in kept),
            )

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest and makes the folders; OSError says what to do."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            content = (readable_json(manifest) + "\n").encode()
            write_whole(self.directory / MANIFEST, content)
            for kind in KINDS:
                (self.directory / kind).mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.directory, error) from error

    def close(self, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of this shard's last start."""
        with self.exclusive():
            manifest = self.manifest()
            self.starts(manifest)[-1]["metrics"] = dict(metrics)
            self.write_manifest(manifest)

    def starts(self, manifest: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Returns what is recorded of each start of this shard."""
        manifest = self.manifest() if manifest is None else manifest
        return [start for start in manifest["starts"] if start.get("shard") == str(self.shard)]

    def refuse_foreign(self) -> None:
        """Raises ValueError where the directory has files, but not those of a run alone."""
        check_links(self.directory)
        if (self.directory / MANIFEST).exists() or not self.directory.exists():
            return
        # hidden files are what a start that was killed early leaves
        if any(not entry.name.startswith(".") for entry in self.directory.iterdir()):
            raise InputError(
                f"{self.directory} is not empty and has no {MANIFEST}: choose another."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from the questions of this shard; ValueError where one has some.

        The system drops the lock when its process ends, however it ends. Remote storage
        has no lock.
        """
        self.refuse_foreign()
        if "://" in str(self.directory):
            yield
            return
        with contextlib.ExitStack() as stack:
            with self.exclusive():  # looking at the others and locking are one step
                for shard, file in self.locks():
                    if self.shard.overlaps(shard) and held(file):
                        raise InputError(
                            f"another process is filling {self.directory} with shard {shard}: wait "
                            "for it, or choose another directory."
                        )
                own = self.directory / f".shard-{self.shard.index}-of-{self.shard.count}.lock"
                stack.enter_context(filelock.FileLock(str(own)).acquire(timeout=0))
            yield

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Locks the directory briefly, so that no two processes change the same file."""
        if "://" in str(self.directory):
            yield
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            held = filelock.FileLock(str(self.directory / ".lock")).acquire(timeout=60)
        except filelock.Timeout:
            raise InputError(
                f"another process has held {self.directory} for a minute: is it stopped?"
            ) from None
        except OSError as error:
            raise unwritable(self.directory, error) from error
        with held:
            yield

    def manifest(self) -> dict[str, Any]:
        """Reads the manifest; ValueError where the directory is not a run."""
        file = self.directory / MANIFEST
        if not file.exists():
            raise InputError(f"{self.directory} has no {MANIFEST}: it is not a run directory.")
        check_links(self.directory)
        try:
            return parse_manifest(read_bytes(file))
        except ValueError as error:
            problem = str(error).rstrip(".")
            raise InputError(
                f"{file} is damaged ({problem}): restore it, or start again in another directory."
            ) from None

    def write_part(
        self, evaluations: Iterable[Mapping[str, Any]], questions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Writes one part: the evaluations of some questions, then the questions themselves.

        OSError says what to do where the disk is full.
        """
        name = next(self.free)
        # otherwise an interruption between the two below would pair new evaluations with old
        # questions
        (self.directory / "questions" / name).unlink(missing_ok=True)
        for kind, schema, rows in (
            ("evaluations", EVALUATIONS, evaluations),
            ("questions", QUESTIONS, questions),
        ):
            self.write_rows(self.directory / kind / name, schema, rows)

    def write_rows(
        self, file: epath.Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]
    ) -> None:
        """Writes rows to a file of the run, whole; OSError says what to do."""
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(list(rows), schema=schema)
        pq.write_table(table, sink, write_page_checksum=True)
        try:
            file.parent.mkdir(exist_ok=True)
            write_whole(file, sink.getvalue().to_pybytes())
        except OSError as error:
            if not self.directory.exists():
                raise OSError(
                    f"the run {self.directory} was moved or removed while it was being written: "
                    "move it back, or start the same command again."
                ) from error
            repair = "Make room" if is_full(error) else "Make it writable"
            raise OSError(
                f"the run {self.directory} cannot be written ({error}): what it has is kept. "
                f"{repair}, and start the same command again."
            ) from error

    def free_names(self) -> Iterator[str]:
        """Yields the names of parts that this shard lacks; lists the parts once, at the first."""
        done = {file.name for file in self.parts("questions")}
        for number in itertools.count():
            name = f"{self.shard.prefix}{number:05d}.parquet"
            if name not in done:
                yield name

    def parts(self, kind: str) -> list[epath.Path]:
        """Lists the part files of a kind in order, without those that lack the other kind."""
        files = [{f.name for f in matching(self.directory / k, "part-*.parquet")} for k in KINDS]
        return [self.directory / kind / name for name in sorted(set.intersection(*files))]

    def questions(
        self, columns: Sequence[str] | None = None, files: Sequence[epath.Path] | None = None
    ) -> pa.Table:
        """Reads the questions that are done, or those of some part files.

        ValueError where a question is twice among all, which takes too long for each part.
        """
        if files is not None:
            return read_parts(files, QUESTIONS, columns, self.num_layers)
        table = read_parts(self.parts("questions"), QUESTIONS, columns, self.num_layers)
        check_once(self.directory, table, self.recorded("questions"))
        return table

    def evaluations(
        self, columns: Sequence[str] | None = None, files: Sequence[epath.Path] | None = None
    ) -> pa.Table:
        """Reads the evaluations of the questions that are done, or those of some part files."""
        files = self.parts("evaluations") if files is None else files
        return read_parts(files, EVALUATIONS, columns, self.num_layers)

    @functools.cached_property
    def num_layers(self) -> int | None:
        """The model's layers, as the last start recorded them; None where it did not."""
        return self.manifest()["starts"][-1].get("num_layers")


def check_once(directory: epath.Path, questions: pa.Table, planned: int | None) -> None:
    """Raises ValueError where a question is in two rows, or there are more than a run asks."""
    if planned is not None and questions.num_rows > planned:
        raise InputError(
            f"{directory} has {questions.num_rows} questions, but its {MANIFEST} says {planned}: "
            "restore that file, or remove part files of other runs."
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


def unwritable(directory: epath.Path, error: OSError) -> OSError:
    """Says what to do about a directory that cannot be made or written."""
    why = error.strerror or error
    return OSError(f"the run directory {directory} cannot be written ({why}): choose another.")
