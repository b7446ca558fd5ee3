"""Commands that ask the questions of tasks, and `--write-out`, which prints their prompts."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cola_jax.cli.flags import Printing, console
from cola_jax.cli.report import print_json
from cola_jax.progress import log

if TYPE_CHECKING:
    from cola_jax.tasks.prepared import Prepared
    from cola_jax.tasks.task import TaskConfig

SHOWN = 3  # questions whose prompts are printed, unless there is a limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskCommand(Printing):
    """A command that asks the questions of tasks."""

    write_out: bool = False
    """Print the first prompts (3, or --limit) in each wording, their continuations and the
    positions that are read, and exit; the model's weights are not needed."""

    def run(self) -> None:
        if not self.write_out:
            self.run_task()
            return
        records = list(self.wordings())
        if self.json:
            print_json(records)
            return
        from cola_jax.report.write_out import wording_lines

        for record in records:
            for line in wording_lines(record):
                console.print(line, soft_wrap=True, highlight=False)

    def run_task(self) -> None:
        """Run the command on its tasks; InputError for bad input."""
        raise NotImplementedError

    def asked(self) -> "tuple[str, Sequence[TaskConfig]]":
        """Return the model and the tasks, with the prompts in which they are asked."""
        raise NotImplementedError

    def worded(
        self, task: "TaskConfig", tokenizer: Any, **options: Any
    ) -> "Iterator[list[Prepared]]":
        """Prepare the first questions of a task in the wordings to choose, and to measure by."""
        if task.chooses_over_several or not task.measures_in_several:
            yield [task.prepare(tokenizer, **options)]
        if task.measures_in_several:
            yield task.prepare_prompts(tokenizer, **options)

    def wordings(self) -> Iterator[dict[str, Any]]:
        """Encode the first questions of the tasks, without the model's weights; see `write_out`."""
        model, tasks = self.asked()
        for task in tasks:
            task.check()
        log.info("loading the tokenizer of %s", model)
        from cola_jax.formats.cache import open_texts
        from cola_jax.report.write_out import wording_records

        texts = open_texts(model)
        for task in tasks:
            count = SHOWN if task.limit is None else None
            options = {"context": texts.context, "stop_tokens": texts.stop_tokens, "first": count}
            for prepared in self.worded(task, texts.tokenizer, **options):
                yield from wording_records(task, prepared)
