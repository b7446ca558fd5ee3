"""`cola verify`: claims about paths, tried on tasks, prompts and controls fixed beforehand."""

import dataclasses
import functools
import operator
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from cola_jax.cli.flags import (
    MEASURING,
    Flags,
    console,
    group,
    run_with_progress,
)
from cola_jax.cli.prompts import TaskCommand
from cola_jax.cli.report import print_json
from cola_jax.cli.results import print_results, write_report
from cola_jax.deploy.settings import Outcome, TrialSettings
from cola_jax.errors import InputError, UsageError, shown
from cola_jax.errors import count as count_of
from cola_jax.layer_costs import LayerCosts, part_fractions, read_layer_costs
from cola_jax.progress import log
from cola_jax.storage import path_of

if TYPE_CHECKING:
    from cola_jax.cli.flags import TaskFlags
    from cola_jax.deploy.provenance import Provenance
    from cola_jax.deploy.verify.claims import Claim
    from cola_jax.deploy.verify.power import Components
    from cola_jax.runs.chosen_on import ChosenOn
    from cola_jax.runs.session import Session
    from cola_jax.tasks.prepared import Prepared
    from cola_jax.tasks.task import TaskConfig

PLANNED = (4, 8, 16, 32)  # prompts of a plan


@dataclasses.dataclass(frozen=True)
class Verify(TaskCommand):
    """Try claims: is a path better or worse than the model, or as good on fewer layers?

    Several claims and tasks are corrected for their number. The protocol is written before any
    outcome is known, and cannot change once a trial has begun. `cola verify --ledger` lists the
    tries so far.
    """

    claims: Annotated[Positional[tuple[str, ...]], arg(help_behavior_hint="(required)")]
    """Paths such as 0-28; blocks of RYS such as (10,14); dropped:20,21; a recipe of mergekit, or
    results of PoLar or Dr.LLM; a layer-edited Hugging Face model (see deploy/verify/README.md)."""
    flags: Flags
    settings: Annotated[OmitArgPrefixes[TrialSettings], group("Trial")] = dataclasses.field(
        default_factory=TrialSettings
    )
    chosen_on: tuple[str, ...] = ()
    """Where the claims were chosen: outputs of `cola search`, `scan`, `evaluate`, `static` or
    `menu`, directories or JSON files; or the word unknown, which each verdict then states. Their
    questions and prompts judge nothing. static.json records where its path was chosen."""
    other_questions: bool = False
    """Leave out the questions that chose a claim, those of --chosen-on; they count towards
    --limit."""
    power: Annotated[float | None, arg(metavar="POINTS")] = None
    """Only plan: print how many questions show a difference of this many points four times in
    five."""
    variances: Annotated[str | None, arg(metavar="DIRECTORY")] = None
    """Output of an earlier trial or pilot, by whose variances the size is planned; by usual ones
    by default."""
    fail_on: tuple[Outcome, ...] = ()
    """Verdicts of any claim with which the command exits with status 1, such as worse."""
    layer_costs: Path | None = None
    """File of `cola benchmark --layers`, or a JSON list of milliseconds by layer, to show the cost
    of paths, which --measure agreement compares with; the number of layers by default."""

    def asked(self) -> "tuple[str, list[TaskConfig]]":
        return self.flags.model, [flags.task for flags in self.each().values()]

    def worded(
        self, task: "TaskConfig", tokenizer: Any, **options: Any
    ) -> "Iterator[list[Prepared]]":
        yield task.prepare_prompts(tokenizer, usual=MEASURING, **options)

    def run_task(self) -> None:
        from cola_jax.deploy.verify.claims import check_not_empty
        from cola_jax.deploy.verify.results import earlier_seconds, trial_results
        from cola_jax.deploy.verify.rows import digest_of_rows
        from cola_jax.deploy.verify.trial import run_trial, time_paths
        from cola_jax.runs.machine import machine

        if not self.claims:
            raise UsageError("`cola verify` needs CLAIMS: give at least one, such as 0-28.")
        for text in self.claims:
            check_not_empty(text)
        if self.power is not None:
            self.plan(self.power)
            return
        self.settings.check()
        provenances = self.provenances()
        if self.flags.task.chooses_over_several:
            raise InputError("a trial chooses nothing: leave out --choose-prompts.")
        left_out = self.left_out(provenances)
        sessions = self.sessions(left_out)
        (first, *_), *_ = sessions.values()
        claims = [
            dataclasses.replace(claim, provenance=provenances[claim.text])
            for claim in self.read(first)
        ]
        model = first.model
        fractions = part_fractions(model.config)
        costs = read_layer_costs(self.layer_costs, model.config.num_layers, model.digest, fractions)
        samplers = self.samplers(sessions, claims, left_out)
        out, settings = self.flags.out, self.settings
        components = self.components()
        trial = run_with_progress(
            lambda metrics: run_trial(
                sessions, claims, out, settings, metrics, samplers, components, costs
            )
        )
        seconds = earlier_seconds(out, trial) or time_paths(sessions, trial)
        start = machine() | first.environment | {"task": ", ".join(sessions)}
        rows = digest_of_rows(out, trial.protocol)
        results = trial_results(trial, seconds, costs, start, rows)
        write_report(results, path_of(out))
        print_results(results, as_json=self.json, whole=True)
        outcomes = {v.outcome for verdicts in trial.verdicts for v in verdicts}
        if failed := sorted(outcomes & {*self.fail_on}):
            log.error("a claim is called %s (--fail-on)", ", ".join(failed))
            sys.exit(1)

    def plan(self, points: float) -> None:
        """Print how many questions a trial needs, in the prompts asked for and in others."""
        from cola_jax.deploy.verify.power import plan
        from cola_jax.deploy.verify.verdict import number_of_tests
        from cola_jax.report.tables import Row, Table
        from cola_jax.report.terminal import TerminalTable

        components = self.components()
        pairs = len(self.flags.each()) * len(self.claims)
        prompts = sorted({self.flags.task.prompts or MEASURING, *PLANNED})
        tests = pairs * number_of_tests(max(prompts), shorter=True)
        plans = {
            count: plan(
                points / 100, count, components, pairs * number_of_tests(count, shorter=True)
            )
            for count in prompts
        }
        if self.json:
            print_json({count: planned._asdict() for count, planned in plans.items()})
            return
        rows = []
        for count, planned in plans.items():
            need = "none suffices"
            if planned.least_prompts is not None:
                need += f": take {planned.least_prompts} prompts or more"
            rows.append(Row(str(count), (str(planned.questions or need),)))
        console.print(TerminalTable(Table(rows, columns=("prompts", "questions"), texts=True)))
        console.print(
            f"Each question asked in each prompt, to show {points:g} points four times in five in "
            f"{count_of(tests, 'test')}, with {100 * components.prompt_sd:.1f} points between "
            "prompts (standard deviation).",
            soft_wrap=True,
        )

    def components(self) -> "Components":
        """Return the variances by which the size is planned."""
        from cola_jax.deploy.verify.power import Components
        from cola_jax.deploy.verify.results import earlier_components

        return Components() if self.variances is None else earlier_components(self.variances)

    def each(self) -> "dict[str, TaskFlags]":
        """Return the flags of each task by its name."""
        return {flags.name: flags for flags in self.flags.each()}

    def left_out(self, provenances: "Mapping[str, Provenance]") -> "ChosenOn":
        """Return what chose the claims, where --other-questions leaves it out."""
        from cola_jax.runs.chosen_on import NOTHING

        known = [each.chosen_on for each in provenances.values() if each.chosen_on is not None]
        if self.other_questions and not known:
            raise InputError(
                "--other-questions leaves out those that chose a claim, which are unknown: give "
                "--chosen-on the output of the command that chose it."
            )
        return functools.reduce(operator.or_, known if self.other_questions else [], NOTHING)

    def sessions(self, left_out: "ChosenOn") -> "dict[str, list[Session]]":
        """Prepare a session for each prompt of each task, by its name; they share the weights."""
        sessions: dict[str, list[Session]] = {}
        model = None
        for name, flags in self.each().items():
            every = flags.prepare_prompts(self, model, MEASURING)
            sessions[name] = [session.without(left_out) for session in every]
            model = sessions[name][0].model
        return sessions

    def samplers(
        self,
        sessions: "dict[str, list[Session]]",
        claims: "list[Claim]",
        left_out: "ChosenOn",
    ) -> "dict[str, list[list[Session]]]":
        """Prepare sessions that draw answers, where a task decodes and a claim can pay for two."""
        from cola_jax.deploy.verify.comparators import TEMPERATURE, affordable_samples

        samplers: dict[str, list[list[Session]]] = {}
        if self.settings.measure == "agreement":  # no answer is graded
            return samplers
        for name, flags in self.each().items():
            first = sessions[name][0]
            config = first.model.config
            costs = LayerCosts(config.num_layers).with_fractions(part_fractions(config))
            count = max(
                affordable_samples(costs.layers(claim.path), config.num_layers) for claim in claims
            )
            if count > 1 and first.asked.scorer.decodes:
                tasks = [
                    dataclasses.replace(flags.task, temperature=TEMPERATURE, sample_seed=seed)
                    for seed in range(count)
                ]
                each = [dataclasses.replace(flags, task=task) for task in tasks]
                samplers[name] = [
                    [
                        session.without(left_out)
                        for session in part.prepare_prompts(self, first.model, MEASURING)
                    ]
                    for part in each
                ]
        return samplers

    def provenances(self) -> "dict[str, Provenance]":
        """Read where each claim was chosen; InputError where nobody has said it."""
        from cola_jax.deploy.provenance import UNKNOWN, UNKNOWN_PROVENANCE, Provenance

        given = UNKNOWN_PROVENANCE if self.settings.pilot else None  # which gives no verdict
        if self.chosen_on:
            given = Provenance.read(self.chosen_on)
        provenances: dict[str, Provenance] = {}
        for text in self.claims:
            provenance = Provenance.of_file(text) or given
            if provenance is None:
                raise InputError(
                    f"where was {shown(text)} chosen? Give --chosen-on with the directory of the "
                    "search, scan, evaluation or menu that chose it, so that its questions and "
                    f"prompts judge nothing, or --chosen-on {UNKNOWN}, which the verdict states."
                )
            provenances[text] = provenance
        return provenances

    def read(self, session: "Session") -> "list[Claim]":
        """Read the claims; InputError for two of the same path."""
        from cola_jax.deploy.verify.claims import read_claim

        config, directory = session.model.config, str(session.model.directory)
        claims = [read_claim(text, directory, config.num_layers) for text in self.claims]
        for claim in claims:
            config.check_keys(claim.path)
        paths = [claim.path for claim in claims]
        for i, claim in enumerate(claims):
            if claim.path in paths[:i]:
                other = self.claims[paths.index(claim.path)]
                raise InputError(
                    f"the claims {shown(other)} and {shown(claim.text)} are one path: give it once."
                )
        return claims
