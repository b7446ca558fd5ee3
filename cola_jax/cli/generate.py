"""`cola generate`."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.text import Text
from tyro.conf import OmitArgPrefixes, arg

from cola_jax.cli.command_line import values_of
from cola_jax.cli.flags import (
    PathFlags,
    RunFlags,
    check_output,
    console,
    num_layers_of,
    run_with_progress,
)
from cola_jax.cli.report import print_json
from cola_jax.cli.signals import keeping
from cola_jax.cli.values import Model
from cola_jax.errors import InputError, shown

if TYPE_CHECKING:
    from cola_jax.question import Question
    from cola_jax.runs.directory import RunDirectory
    from cola_jax.tasks.task import Prepared


UNKEPT = "nothing is kept. Give --output, and the same command goes on where it was interrupted."


@dataclasses.dataclass(frozen=True)
class Generate:
    """Complete prompts along paths, greedily; to grade answers, use `cola evaluate`."""

    model: Model
    prompt: tuple[str, ...] = ()
    """Texts to complete; --prompt="-x" where one begins with a hyphen."""
    prompts_file: Path | None = None
    """JSONL file with the field prompt, and optionally id."""
    path_flags: OmitArgPrefixes[PathFlags] = dataclasses.field(default_factory=PathFlags)
    out: Annotated[str | None, arg(name="output", aliases=["-o"], metavar="DIRECTORY")] = None
    """Run directory, created or resumed; completions are printed either way."""
    max_new_tokens: int = 64
    """Most tokens decoded after each prompt."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, besides the model's own stop tokens."""
    chat: bool = False
    """Put each prompt through the model's chat template."""
    run_flags: OmitArgPrefixes[RunFlags] = dataclasses.field(default_factory=RunFlags)
    json: bool = False
    """Print the completions as JSON: question, path, finish, logprob and text of each."""

    def run(self) -> None:
        from cola_jax.path import identity
        from cola_jax.runs.session import Session

        if self.out is not None:
            check_output(self.out)
        num_layers = num_layers_of(self.model)
        paths = self.path_flags.collect(num_layers) or [identity(num_layers)]
        metadata = {"flags": dict(values_of(self))}
        session = Session.prepare(self.model, self.prepare, self.run_flags.resolve(), metadata)

        def complete(directory: str) -> None:
            run = run_with_progress(
                lambda metrics: session.evaluate(directory, paths, metrics, command="generate"),
                searches=False,
            )
            show(run, self.json)

        if self.out is not None:
            complete(self.out)
            return
        temporary = tempfile.TemporaryDirectory(prefix="cola-generate-")
        with keeping(UNKEPT), temporary as directory:
            complete(directory)

    def prepare(
        self, tokenizer: Any, *, context: int, stop_tokens: Callable[[], Sequence[int]]
    ) -> "Prepared":
        """Encodes the prompts.

        Raises ValueError where there are none, two have one id, or one is empty or too long.
        """
        from cola_jax.execute.stop import Stop
        from cola_jax.scoring import Completions
        from cola_jax.tasks.task import Prepared

        stop = Stop(tuple(stop_tokens()), self.stop, tokenizer=tokenizer)
        scorer = Completions(
            tokenizer,
            stop=stop,
            max_new_tokens=self.max_new_tokens,
            chat=self.chat,
            context=context,
        )
        encoded = [scorer.encode(q) for q in read_prompts(self.prompt, self.prompts_file)]
        record = {"scorer": scorer.name, "chat": self.chat, **scorer.record()}
        return Prepared(encoded, scorer, record)


def read_prompts(prompts: Sequence[str], file: Path | None) -> "list[Question]":
    """Reads prompts given by place and those of a JSONL file, with its ids or line numbers.

    Raises ValueError where there are none, a row has no text, or an id occurs twice.
    """
    from cola_jax.question import Question
    from cola_jax.tasks.readers import get_id
    from cola_jax.tasks.sources import read_lines

    texts = [(str(i), text) for i, text in enumerate(prompts)]
    if file is not None:
        for number, row in read_lines(str(file)):
            text = row.get("prompt")
            if not isinstance(text, str):
                raise InputError(
                    f"{file}:{number}: the field 'prompt' must be a text, it is {shown(text)}."
                )
            try:
                texts.append((get_id(row, "id", str(number)), text))
            except ValueError as error:
                raise InputError(f"{file}:{number}: {error}") from None
    if not texts:
        raise InputError("there are no prompts: give --prompt or --prompts-file.")
    seen: set[str] = set()
    for id, text in texts:
        if id in seen:
            raise InputError(
                f"two prompts have the id {shown(id)}: give the rows of the file ids of their own "
                "(a prompt of --prompt is named by its place, from 0)."
            )
        seen.add(id)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"prompt {id} has half a character: {shown(text)}.") from None
    return [Question(id, text, (), 0, open=True) for id, text in texts]


def show(run: "RunDirectory", as_json: bool) -> None:
    """Prints completions after their prompt's id and path, or all of them as JSON."""
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
