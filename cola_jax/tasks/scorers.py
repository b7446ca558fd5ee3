"""`ScorerMaker`: makes the scorer of a task, with its own prompt or a drawn one."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cola_jax import scoring
from cola_jax.chat import TEMPLATE_ARGUMENTS
from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.scoring.answer import check_rule
from cola_jax.scoring.format import format_of
from cola_jax.scoring.grader import choose_grader
from cola_jax.tasks.formats import Shots, check_answerable, load_shots
from cola_jax.tasks.harness import load_task
from cola_jax.tasks.prompt_sets import PromptSet
from cola_jax.tasks.question_table import fields_beside, open_table
from cola_jax.tasks.readers import OWN
from cola_jax.tasks.registry import Task

if TYPE_CHECKING:
    from cola_jax.scoring.scorer import Scorer
    from cola_jax.tasks.task import TaskConfig

# the scorer and the format of multiple choice by default, and those of kinds with others
USUAL = ("options", "plain")
DEFAULTS = {"mmlu": ("letter", "harness"), "scienceqa": ("letter", "plain")}
# of scorers that decode
DECODING = ("max_new_tokens", "rule", "temperature", "top_p", "sample_seed")


@dataclasses.dataclass(frozen=True)
class ScorerMaker:
    """Make the scorer of a task, and its record; InputError for settings that do not fit."""

    config: "TaskConfig"
    task: Task
    tokenizer: Any
    sources: Sequence[Sequence[Question]]  # the questions of each source, in order
    common: dict[str, Any]  # settings of any scorer
    prompt_set: PromptSet | None = None  # the task's own prompt when None

    def make(self) -> "tuple[Scorer, dict[str, Any]]":
        make = self.of_choices if self.task.choice else self.of_open_questions
        scorer, record = (self.of_library if self.task.of_library else make)()
        chat = dict(TEMPLATE_ARGUMENTS) if self.config.chat else None
        return scorer, {"scorer": scorer.name, "chat": chat} | record

    def of_library(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of a task of lm-evaluation-harness, which writes the prompts itself."""
        config = self.config
        if self.prompt_set is not None:
            raise InputError(
                f"the prompts of {config.task} are lm-evaluation-harness's own: give --prompts 1, "
                "and leave out --choose-prompts."
            )
        if config.chat or config.format or config.shots_file or config.shots_seed:
            raise InputError(
                f"the prompts of {config.task} are lm-evaluation-harness's own: leave out --chat, "
                "--format, --shots-file and --shots-seed."
            )
        names = ("options", "options-norm") if self.task.choice else ("generation",)
        scorer_class = self.choose(names[0], names)
        prompt = {"format": "lm-evaluation-harness", "shots": [], "num_fewshot": config.shots}
        if self.task.choice:
            return scorer_class(self.tokenizer, **self.common), {"prompt": prompt}
        grader: Any = load_task(self.task.name, config.hub, config.rule)
        scorer = scoring.FilteredGeneration(self.tokenizer, grader, **self.decoding())
        prompt |= {"stop": list(scorer.stop.strings), "stop_tokens": list(scorer.stop.tokens)}
        return scorer, {"prompt": prompt} | scorer.record()

    def of_choices(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of multiple choice."""
        usual_scorer, usual_format = DEFAULTS.get(self.task.kind, USUAL)
        scorer_class = self.choose(usual_scorer)
        formats = scorer_class.formats
        style = self.config.format or (usual_format if usual_format in formats else "plain")
        if self.prompt_set is not None and self.config.format is None:
            # the plain prompt of letters shows no shots
            with_shots = self.config.shots and scorer_class.lists_options
            style = self.prompt_set.format(["harness"] if with_shots else formats)
        if style not in formats:
            raise InputError(
                f"the scorer {scorer_class.name!r} has the formats {', '.join(formats)}, not "
                f"{style!r}: use another scorer or format."
            )
        shots, record, options = self.shots(0), {}, dict[str, Any](self.common)
        if style != "plain" or shots:
            record["prompt"] = {"format": style, **shots.record(self.sources[0][0])}
            options["shots"] = shots
        if style != "plain":
            options["harness"] = True
        return scorer_class(self.tokenizer, **options), record

    def of_open_questions(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of open questions."""
        config, kind = self.config, self.task.kind
        format = format_of(kind, config.format)
        # `exact` is for formats that fix the whole answer
        free = format.shows_work or kind in OWN
        scorer_class: Any = self.choose("generation" if free else "exact")
        if config.rule is not None:
            format = dataclasses.replace(format, extract=check_rule(config.rule))
        shots = self.shots(format.shots)
        options = self.decoding() if scorer_class.decodes else self.common
        if kind in OWN and scorer_class.decodes:
            options["grader"] = choose_grader(self.golds())
        scorer = scorer_class(self.tokenizer, format, shots=shots, **options)
        if kind in OWN and scorer_class.decodes:
            check_answerable(itertools.chain(*self.sources), scorer)
        prompt = {
            "format": dataclasses.asdict(format) | {"shots": len(shots), "stop": list(format.stop)},
            **shots.record(self.sources[0][0]),
            "stop_tokens": [int(token) for token in self.common["stop_tokens"]],
        }
        return scorer, {"prompt": prompt} | scorer.record()

    def golds(self) -> Iterator[tuple[str, str]]:
        """Yield the answers in the files of the task, each after its place.

        Those of all rows, so that a larger limit grades no question otherwise.
        """
        config = self.config
        yield from open_table(config.task, config.fields, config.answers_from).golds()
        if other := config.held_out_from:
            fields = fields_beside(other, config.fields)
            yield from open_table(other, fields, config.answers_from).golds()

    def decoding(self) -> dict[str, Any]:
        """Return the settings of a scorer that decodes."""
        config = self.config
        draws = {name: getattr(config, name) for name in ("temperature", "top_p")}
        draws["seed"] = config.sample_seed
        return self.common | {"max_new_tokens": config.max_new_tokens} | draws

    def choose(self, default: str, names: Sequence[str] = ()) -> "type[Scorer]":
        """Return the scorer that the user or the task names; `names` are those that fit."""
        name = self.config.scorer or default
        scorer_class = scoring.scorer_class(name)
        names = names or scoring.scorer_names(open=not self.task.choice)
        if name not in names:
            asks = "is multiple choice" if self.task.choice else "asks open questions"
            raise InputError(
                f"{self.config.task} {asks}, which the scorer {name!r} is not for: use "
                f"{', '.join(names)}."
            )
        for field in DECODING:
            changed = getattr(self.config, field) != getattr(type(self.config), field)
            if changed and not scorer_class.decodes:
                raise InputError(f"{field} is a setting of the scorer `generation`: leave it out.")
        return scorer_class

    def shots(self, default: int) -> Shots:
        """Load the questions shown before each."""
        config = self.config
        return load_shots(
            config.task,
            default if config.shots is None else config.shots,
            shots_file=config.shots_file,
            questions=self.sources,
            level=config.level,
            hub=None if self.task.shots_of else config.hub,
            seed=config.shots_seed,
            prompt_set=self.prompt_set,
            fields=config.fields,
            answers_from=config.answers_from,
        )
