"""`cola search` and `cola evaluate`."""

import dataclasses
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from cola_jax.cli.flags import (
    PathFlags,
    TaskFlags,
    num_layers_of,
    run_with_progress,
)
from cola_jax.cli.report import show_results
from cola_jax.cli.verbosity import log
from cola_jax.strategies.rules import (
    DEFAULT,
    PRESETS,
    Control,
    PresetName,
    Rules,
    Settings,
    Space,
)
from cola_jax.tasks.task import refuse_variants

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

NAMED = 5  # questions named in a note


@dataclasses.dataclass(frozen=True)
class Search:
    """Search, for every question, which layers to skip or repeat."""

    flags: OmitArgPrefixes[TaskFlags]
    preset: PresetName = DEFAULT
    """Strategy, whose rules the flags --rules.* change."""
    rules: Rules = PRESETS[DEFAULT]
    space: Space | None = None
    """Kinds of edits that are tried; those that the rules allow by default."""
    simulations: int = 100
    """Evaluations per question, beyond the baseline."""
    leaves: int = 16
    """Evaluations per question and wave; larger waves use staler tree statistics."""
    seed: int = 0
    """Random seed, combined with the question's id."""
    early_stop: bool = False
    """End a question's search at its first improvement."""
    control: Control = "all"
    """Wrong options for which a question answered wrongly is searched as well, to tell skill from
    luck: all, one of them beside the model's own answer, or none."""
    decoys: str | None = None
    """Run of `cola evaluate --scorer generation` over the same questions, with all layers and with
    random paths: the wrong answer of an open question is then one that the model gave there, as
    often as the correct one."""
    robust: bool = False
    """Search for paths that are right in all variants at once, instead of asking again what was
    found in one."""
    reuse: tuple[str, ...] = ()
    """Run directories over the same checkpoint, prompts and scorer: what they have evaluated is not
    run again."""
    json: bool = False
    """Print the results as JSON, as results.json has them."""

    def run(self) -> None:
        made = self.flags.prepare_each(self.decoys, self)
        for flags, session in made:
            self.search(flags.out, session)
        show_results([flags.out for flags, _ in made], self.json)

    def search(self, directory: str, session: "Session") -> None:
        """Searches the questions of a task."""
        from cola_jax.strategies.controls import without_control

        rules = self.rules if self.space is None else self.rules.within(self.space)
        settings = Settings(
            rules, self.simulations, self.leaves, self.seed, self.early_stop, self.control
        )
        questions = [encoded.question for encoded in session.encoded]
        if lacking := without_control(questions, self.control):
            named = ", ".join(lacking[:NAMED]) + (", ..." if len(lacking) > NAMED else "")
            log.warning(
                f"{len(lacking)} of {len(questions)} questions have no wrong answer for a control "
                f"search to look for, and are left out of the net effect ({named}); answers that "
                "the model gives on other paths can serve: see --decoys."
            )
        run_with_progress(
            lambda metrics: session.search(directory, settings, metrics, self.reuse, self.robust),
            searches=True,
        )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate the pretrained model, or given or random paths, on every question."""

    flags: OmitArgPrefixes[TaskFlags]
    path_flags: OmitArgPrefixes[PathFlags] = dataclasses.field(default_factory=PathFlags)
    json: bool = False
    """Print the results as JSON, as results.json has them."""

    def run(self) -> None:
        from cola_jax.path import identity

        refuse_variants("evaluate", self.flags.task.variants)
        self.flags.check()
        num_layers = num_layers_of(self.flags.model)
        paths = self.path_flags.collect(num_layers) or [identity(num_layers)]
        made = self.flags.prepare_each(command=self)
        for flags, session in made:
            run_with_progress(
                lambda metrics, flags=flags, session=session: session.evaluate(
                    flags.out, paths, metrics
                ),
                searches=False,
            )
        show_results([flags.out for flags, _ in made], self.json)
