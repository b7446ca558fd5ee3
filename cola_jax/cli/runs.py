"""`cola search`, `evaluate`, `scan` and `generate`: the commands that make a run."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.text import Text
from tyro.conf import arg

from cola_jax.cli.flags import (
    Finishing,
    Flags,
    Model,
    PathChoice,
    PathFlags,
    Printing,
    RunChoice,
    RunFlags,
    Shares,
    console,
    keeping,
    open_session,
    run_with_progress,
    sharing_weights,
    values_of,
)
from cola_jax.cli.prompts import TaskCommand
from cola_jax.cli.report import Report, print_json, show_results
from cola_jax.errors import InputError, reading, shorten, shown
from cola_jax.files import check_writable
from cola_jax.layer_costs import part_fractions, read_layer_costs
from cola_jax.progress import log
from cola_jax.question import Question
from cola_jax.strategies.rules import (
    DEFAULT,
    PRESETS,
    Control,
    PresetName,
    Rules,
    Settings,
    Space,
    simulations_of,
)
from cola_jax.tasks.readers import read_id
from cola_jax.tasks.tables import read_rows
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.path import LayerPath
    from cola_jax.runs.run import Run
    from cola_jax.runs.session import Session
    from cola_jax.tasks.prepared import Prepared

UNKEPT = "nothing is kept. Give --output to resume an interrupted command."


@dataclasses.dataclass(frozen=True)
class Search(TaskCommand):
    """Search, for every question, which layers to skip or repeat."""

    flags: Flags
    preset: PresetName = DEFAULT
    """Strategy; `rules` in the file of --config changes its rules."""
    rules: Rules = PRESETS[DEFAULT]
    space: Space | None = None
    """Kinds of edits to try; all that the rules allow by default."""
    parts: bool = False
    """Also skip the attention or the MLP of blocks alone, as the preset parts does."""
    shares: Shares = ()
    """Shares of their update, such as 0.5,0.25, above 0 and up to 2: repeated blocks may run again
    with one, and skipped ones keep one; none for those of the preset damped."""
    simulations: int | None = None
    """Evaluations per question, beyond the baseline; the budget of the preset by default: 200 of
    cola-appendix, 50 of drllm, 100 of all others."""
    leaves: int = 16
    """Evaluations per question and wave; larger waves use staler tree statistics."""
    seed: int = 0
    """Random seed, combined with the question's id."""
    control: Control = "all"
    """Wrong options that are searched for as well where the model answers wrongly, to tell skill
    from luck: all, one of them beside the model's own answer, or none."""
    decoys: str | None = None
    """Run of `cola evaluate --scorer generation` over the same questions, with all layers and with
    random paths: its wrong answers, chosen by their counts, are decoys of open questions."""
    reuse: tuple[str, ...] = ()
    """Run directories with the same checkpoint, prompts and scorer, whose evaluations are used."""
    prior: tuple[str, ...] = ()
    """Run directories of searches of other questions with the same model: edits that made wrong
    answers right there, more often than they gave other wrong answers, are tried first."""
    layer_costs: Path | None = None
    """File of `cola benchmark --layers`, or a JSON list of milliseconds by layer, which trees weigh
    in place of the number of layers."""
    on_device: bool = False
    """Run the searches of a tree whole on the devices, which select paths, run and judge them; for
    the scorers of multiple choice and `exact`."""

    def asked(self) -> tuple[str, list[TaskConfig]]:
        if self.decoys is not None:
            raise InputError("the prompts are shown without decoys: leave out --decoys.")
        return self.flags.model, [flags.task for flags in self.flags.each()]

    def worded(
        self, task: TaskConfig, tokenizer: Any, **options: Any
    ) -> "Iterator[list[Prepared]]":
        yield [task.prepare(tokenizer, again=True, **options)]

    def run_task(self) -> None:
        sessions = sharing_weights(
            {flags.out: flags.prepare_search(self.decoys, self) for flags in self.flags.each()}
        )
        # raises before anything runs
        prepared = {out: self.with_settings(session) for out, session in sessions.items()}
        finishing = Finishing()
        for directory, (session, settings) in prepared.items():
            with finishing.others():
                self.search(directory, session, settings)
        show_results([*sessions], self.json)
        finishing.end()

    @property
    def budget(self) -> int:
        """The evaluations per question, those of the preset where none are given."""
        return simulations_of(self.preset) if self.simulations is None else self.simulations

    def with_settings(self, session: "Session") -> "tuple[Session, Settings]":
        """Return the session of a task, which records a prior, and the settings of its search."""
        from cola_jax.runs.prior import with_prior

        rules = dataclasses.replace(self.rules, parts=self.parts, shares=self.shares)
        if self.space is not None:
            rules = rules.within(self.space)
        model = session.model
        layers = model.config.num_layers
        fractions = part_fractions(model.config) if rules.parts else None
        costs = read_layer_costs(self.layer_costs, layers, model.digest, fractions)
        budget = self.budget, self.leaves, self.seed
        settings = Settings(
            rules,
            *budget,
            control=self.control,
            layer_costs=costs.milliseconds,
            part_costs=costs.parts if rules.parts else None,
        )
        return with_prior(session, settings, self.prior)

    def search(self, directory: str, session: "Session", settings: Settings) -> None:
        """Search the questions of a task."""
        from cola_jax.strategies.controls import without_control

        questions = session.asked.questions
        if lacking := without_control(questions, self.control):
            log.warning(
                f"{len(lacking)} of {len(questions)} questions have no wrong answer for a control "
                f"search and are left out of the net effect ({shorten(lacking)}): give --decoys."
            )
        run_with_progress(
            lambda metrics: session.search(
                directory, settings, metrics, self.reuse, on_device=self.on_device
            )
        )


@dataclasses.dataclass(frozen=True)
class EvaluateCommand(TaskCommand):
    """Evaluate the pretrained model, or given or random paths, on every question."""

    flags: Flags
    path_flags: PathChoice = dataclasses.field(default_factory=PathFlags)

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.flags.model, [flags.task for flags in self.flags.each()]

    def run_task(self) -> None:
        from cola_jax.path import format_path, identity

        sessions = sharing_weights(self.flags.prepare_each(self))
        prompts = self.flags.task.prompts or 1
        (first, *_) = sessions.values()
        paths = self.path_flags.collect(first.model.config, first.model.identity)
        plain = identity(first.model.config.num_layers)
        if prompts > 1 and plain not in paths:
            raise InputError(
                "paths are compared with the identity path in each prompt: add --paths "
                f"{format_path(plain)}."
            )
        finishing = Finishing()
        for directory, session in sessions.items():
            with finishing.others():
                run_evaluation(session, directory, paths)
        show_results([*sessions], self.json, prompts)
        finishing.end()


def run_evaluation(
    session: "Session", directory: str, paths: "Sequence[LayerPath]", command: str = "evaluate"
) -> "Run":
    """Evaluate paths on the questions of a session with a progress bar."""
    return run_with_progress(
        lambda metrics: session.evaluate(directory, paths, metrics, command=command)
    )


@dataclasses.dataclass(frozen=True)
class Scan(TaskCommand):
    """Skip, and repeat once, every block of layers, and map the effects."""

    flags: Flags
    longest_block: int | None = None
    """Most layers of a block; all by default, about the square of the model's layers in paths."""
    edits: tuple[Literal["skip", "repeat"], ...] = ("skip", "repeat")
    """Edits of blocks: skip, repeat or both."""
    parts: bool = False
    """Skip the attention of each layer as well, and the MLP of each."""

    def asked(self) -> tuple[str, list[TaskConfig]]:
        return self.flags.model, [self.flags.over_prompts().task]

    def run_task(self) -> None:
        from cola_jax.deploy.scan import scan_paths

        if self.flags.task.measures_in_several:
            raise InputError(
                "a scan measures blocks where it chooses them: leave out --prompts, and try the "
                "best with `cola verify`, in other prompts."
            )
        flags = self.flags.over_prompts()
        session = flags.prepare(command=self)
        if session.settings["questions"] < 2:
            raise InputError("a map needs 2 or more questions, there is 1: raise --limit.")
        num_layers = session.model.config.num_layers
        paths = scan_paths(num_layers, self.longest_block, self.edits, self.parts)
        finishing = Finishing()
        with finishing.others():
            run_evaluation(session, flags.out, paths, "scan")
        Report((flags.out,), json=self.json).run()
        finishing.end()


@dataclasses.dataclass(frozen=True)
class Generate(Printing):
    """Complete prompts along paths; to grade answers, use `cola evaluate`."""

    model: Model
    prompt: tuple[str, ...] = ()
    """Texts to complete; --prompt="-x" where one begins with a hyphen."""
    prompts_file: Path | None = None
    """File of rows with the field prompt, and optionally id, such as JSONL or CSV."""
    path_flags: PathChoice = dataclasses.field(default_factory=PathFlags)
    out: Annotated[str | None, arg(name="output", aliases=["-o"], metavar="DIRECTORY")] = None
    """Run directory, created or resumed; completions are printed either way."""
    max_new_tokens: int = 64
    """Most tokens decoded after each prompt."""
    temperature: float = 0.0
    """Temperature at which tokens are drawn; 0 decodes greedily."""
    top_p: float = 1.0
    """Share of the probability, of the likeliest tokens, from which tokens are drawn; 1 for all."""
    sample_seed: int = 0
    """Random seed of drawn tokens, combined with the prompt's id and the path."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, besides the model's own stop tokens."""
    chat: bool = False
    """Put each prompt through the model's chat template."""
    run_flags: RunChoice = dataclasses.field(default_factory=RunFlags)

    def run(self) -> None:
        if self.out is not None:
            check_writable(self.out)
            self.complete(self.out)
            return
        temporary = tempfile.TemporaryDirectory(prefix="cola-generate-")
        with keeping(UNKEPT), temporary as directory:
            self.complete(directory)

    def complete(self, directory: str) -> None:
        """Complete the prompts in a run directory, and print its completions."""
        from cola_jax.runs.run import Run

        metadata = {"flags": values_of(self)}
        session = open_session(self.model, self.prepare, self.run_flags, metadata)
        paths = self.path_flags.collect(session.model.config, session.model.identity)
        finishing = Finishing()
        with finishing.others():
            run_evaluation(session, directory, paths, "generate")
        show_completions(Run(directory), self.json)
        finishing.end()

    def prepare(
        self, tokenizer: Any, *, context: int, stop_tokens: Callable[[], Sequence[int]]
    ) -> "Prepared":
        """Read and check the prompts.

        Raises InputError where there are none, two have one id, or one is empty or too long.
        """
        from cola_jax.execute.decoder import Stop
        from cola_jax.scoring import Completions
        from cola_jax.scoring.encoder import Encoder
        from cola_jax.tasks.prepared import Prepared

        stop = Stop(tuple(stop_tokens()), self.stop, tokenizer=tokenizer)
        chat = self.chat
        scorer = Completions(
            tokenizer,
            stop=stop,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.sample_seed,
            chat=chat,
            context=context,
        )
        questions = read_prompts(self.prompt, self.prompts_file)
        record = {"scorer": scorer.name, "chat": chat, **scorer.record()}
        return Prepared.of(questions, Encoder((scorer,)), record)


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[Question]:
    """Read prompts given by place and those of a file, with its ids or line numbers.

    Raises InputError where there are none, a row has no text, or an id occurs twice.
    """
    texts = [(str(i), text) for i, text in enumerate(prompts)]
    for where, _, row in read_rows(str(file)) if file is not None else ():
        with reading(where):
            text = row.get("prompt")
            if not isinstance(text, str):
                raise InputError(f"the field 'prompt' must be a text, it is {shown(text)}.")
            texts.append((read_id(row.get("id", where.rpartition(":")[2].strip())), text))
    if not texts:
        raise InputError("there are no prompts: give --prompt or --prompts-file.")
    known: set[str] = set()
    for id, _ in texts:
        if id in known:
            raise InputError(
                f"two prompts have the id {shown(id)}: give the rows of the file ids of their own "
                "(a prompt of --prompt is named by its place, from 0)."
            )
        known.add(id)
    return [Question(id, text, (), 0, open=True) for id, text in texts]


def show_completions(run: "Run", as_json: bool) -> None:
    """Print completions after their prompt's id and path, or all of them as JSON."""
    from cola_jax.path import format_path

    columns = ["question", "path", "finish", "logprob", "text"]
    rows = run.evaluations(columns).to_pylist()
    if as_json:
        print_json([row | {"path": format_path(row["path"])} for row in rows])
        return
    for row in rows:
        finish = f"{row['finish']}, {row['logprob']:.2f}"
        head = f"{row['question']}  {format_path(row['path'])}  ({finish}) "
        console.print(Text.assemble((head, "bold"), row["text"]), soft_wrap=True)
