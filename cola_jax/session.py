"""A session: a model over the questions of a task, filling a run directory group by group."""

import dataclasses
import datetime
import functools
import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from cola_jax import checkpoint
from cola_jax.execute import run_paths
from cola_jax.params import Model
from cola_jax.prompts import Prompts
from cola_jax.rows import (
    evaluation_rows,
    question_row,
    search_evaluation_rows,
    search_question_row,
)
from cola_jax.run import RunDirectory
from cola_jax.score import score
from cola_jax.search import Preset, search
from cola_jax.search.search import check_settings
from cola_jax.tasks import Encoded, encode, load_questions
from cola_jax.tasks.prompt import TEMPLATE_ARGUMENTS, Scorer


@dataclasses.dataclass
class Counts:
    """How far a session is, for whoever watches; the numbers of earlier starts included."""

    total: int  # evaluations expected; a search that runs out of paths makes fewer
    evaluations: int = 0
    fixed: int = 0  # wrong answers made right
    shortened: int = 0  # right answers that need fewer layers


Watch = Callable[[Counts], None]


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, questions encoded for a scorer, and what is recorded about both."""

    model_directory: str
    num_layers: int
    questions: list[Encoded]
    settings: dict[str, Any]  # with what a command adds, these decide the rows
    environment: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        model: str,
        task: str,
        *,
        split: str = "test",
        limit: int | None = None,
        scorer: Scorer = "options",
        chat: bool = False,
        dtype: str | None = None,
    ) -> "Session":
        """Checks and loads what a session needs, but for the weights, which take longest.

        `model` is a checkpoint directory. `dtype` None means float32 on a CPU, where bfloat16 is
        no faster, and the checkpoint's own elsewhere. Raises ValueError for whatever is wrong with
        the checkpoint, the task or a prompt.
        """
        metadata = checkpoint.read_metadata(model)
        questions = load_questions(task, split=split, limit=limit)
        tokenizer = checkpoint.load_tokenizer(model)
        num_layers, context = (metadata["config"][name] for name in ("num_layers", "context"))
        encoded = encode(questions, tokenizer, scorer, chat=chat, context=context)
        dtype = dtype or ("float32" if jax.default_backend() == "cpu" else metadata["dtype"])
        settings = {
            "model": metadata["digest"],
            "dtype": dtype,
            "task": task_digest(encoded),
            "questions": len(encoded),
            "scorer": scorer,
            "chat": TEMPLATE_ARGUMENTS if chat else None,
        }
        packages = ("cola-jax", "jax", "jaxlib", "flax", "transformers", "numpy")
        device = jax.devices()[0]
        environment = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": str(model),
            "origin": metadata["origin"],
            "num_layers": num_layers,
            "task": task,
            "split": split,
            "versions": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "device": f"{device.platform} {device.device_kind}",
        }
        return cls(str(model), num_layers, encoded, settings, environment)

    @functools.cached_property
    def model(self) -> Model:
        """The weights, loaded when first needed: after the run directory has been checked."""
        return checkpoint.load(self.model_directory, dtype=self.settings["dtype"])

    def search(
        self,
        directory: str,
        preset: Preset,
        *,
        simulations: int,
        leaves: int,
        seed: int = 0,
        early_stop: bool = False,
        group: int = 8,
        watch: Watch = lambda counts: None,
    ) -> RunDirectory:
        """Searches every question that the run directory does not have yet, `group` in step.

        The group decides how much work a kill can lose, not the rows.
        """
        check_settings(self.questions, preset, simulations, leaves)  # before a directory is made
        settings = self.settings | {
            "command": "search",
            "preset": dataclasses.asdict(preset),
            "simulations": simulations,
            "leaves": leaves,
            "seed": seed,
            "early_stop": early_stop,
        }
        run = RunDirectory(directory)
        for questions, counts in self.groups(run, settings, group, simulations + 1):
            base = dataclasses.replace(counts)

            def show(evaluations: int, fixed: int, shortened: int, base=base, counts=counts):
                counts.evaluations = base.evaluations + evaluations
                counts.fixed = base.fixed + fixed
                counts.shortened = base.shortened + shortened
                watch(counts)

            outcomes = search(
                self.model,
                questions,
                preset=preset,
                simulations=simulations,
                leaves=leaves,
                seed=seed,
                early_stop=early_stop,
                on_progress=show,
            )
            run.write_part(
                [row for outcome in outcomes for row in search_evaluation_rows(outcome)],
                [search_question_row(outcome) for outcome in outcomes],
            )
        return run

    def evaluate(
        self,
        directory: str,
        paths: Sequence[tuple[int, ...]],
        *,
        group: int = 8,
        watch: Watch = lambda counts: None,
    ) -> RunDirectory:
        """Evaluates the same paths on every question that the run directory does not have yet."""
        settings = self.settings | {"command": "evaluate", "paths": [list(p) for p in paths]}
        run = RunDirectory(directory)
        for questions, counts in self.groups(run, settings, group, len(paths)):

            def show(evaluations: int, counts=counts):
                counts.evaluations += evaluations
                watch(counts)

            prompts = Prompts.stack([encoded.prompts for encoded in questions])
            readings = run_paths(self.model, prompts, [paths] * len(questions), on_progress=show)
            rows = []
            for b, encoded in enumerate(questions):
                row = jax.tree.map(lambda x, b=b: x[b], readings)
                rows += evaluation_rows(encoded, list(paths), score(row, encoded))
            run.write_part(rows, [question_row(encoded, len(paths)) for encoded in questions])
        return run

    def groups(
        self, run: RunDirectory, settings: dict[str, Any], group: int, each: int
    ) -> Iterator[tuple[list[Encoded], Counts]]:
        """Opens the run and yields the questions it lacks, `group` at a time, and the counts."""
        if group < 1:
            raise ValueError(f"a group needs at least 1 question, it is {group}.")
        with run.locked():
            done = run.open(settings, self.environment)
            left = [encoded for encoded in self.questions if encoded.question.id not in done]
            counts = earlier(run, self.num_layers, each * len(left))
            for start in range(0, len(left), group):
                yield left[start : start + group], counts


def earlier(run: RunDirectory, num_layers: int, left: int) -> Counts:
    """Counts what earlier starts of a run have done, and the evaluations still to come."""
    rows = run.questions(["evaluations", "baseline", "best"]).to_pylist()
    right = [row for row in rows if row["best"] is not None]
    evaluations = sum(row["evaluations"] for row in rows)
    return Counts(
        total=evaluations + left,
        evaluations=evaluations,
        fixed=sum(not row["baseline"] for row in right),
        shortened=sum(row["baseline"] and len(row["best"]) < num_layers for row in right),
    )


def task_digest(questions: Sequence[Encoded]) -> str:
    """Returns the SHA-256 of all that the model sees and is asked, in order."""
    sha = hashlib.sha256()
    for encoded in questions:
        question = encoded.question
        sha.update(repr((question.id, question.options, question.answer)).encode())
        for array in (*jax.tree.leaves(encoded.prompts), encoded.option):
            sha.update(repr(np.asarray(array).tolist()).encode())
    return sha.hexdigest()
