"""`ScorerMaker`: makes the scorer of a task, in its own wording or a drawn one."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cola_jax import scoring
from cola_jax.chat import TEMPLATE_ARGUMENTS
from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.scoring.answer import check_rule
from cola_jax.scoring.format import format_of
from cola_jax.scoring.grader import choose_grader
from cola_jax.tasks.formats import Shots, check_answerable
from cola_jax.tasks.harness import load_task
from cola_jax.tasks.readers import OWN
from cola_jax.tasks.registry import Task
from cola_jax.tasks.wordings import LIBRARY
from cola_jax.wording import Wording

if TYPE_CHECKING:
    from cola_jax.scoring.scorer import Scorer

# the scorer and the format of multiple choice by default, and those of kinds with others
USUAL = ("options", "plain")
DEFAULTS = {"mmlu": ("letter", "harness"), "scienceqa": ("letter", "plain")}
# of scorers that decode
DECODING = ("max_new_tokens", "rule", "temperature", "top_p", "sample_seed")


@dataclasses.dataclass(frozen=True)
class ScorerFlags:
    """The flags that choose a scorer, and what it decodes; None for the task's own."""

    scorer: str | None = None
    max_new_tokens: int | None = None
    rule: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    sample_seed: int = 0


@dataclasses.dataclass(frozen=True)
class ScorerMaker:
    """Make the scorer of a task, and its record; InputError for settings that do not fit."""

    task: Task
    wording: Wording
    flags: ScorerFlags
    tokenizer: Any
    sources: Sequence[Sequence[Question]]  # the questions of each source, in order
    limits: dict[str, Any]  # of any scorer: the context, and the tokens that end an answer
    load_shots: Callable[..., Shots]  # takes the wording's number of shots, and the rest of it
    golds: Callable[[], Iterator[tuple[str, str]]]  # all answers of open questions, with places
    hub: str | None = None  # where a task of the library has its data set

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task.name

    @property
    def questions(self) -> Sequence[Question]:
        """The questions of the task, in order."""
        return self.sources[0]

    @property
    def has_template(self) -> bool:
        """Whether prompts of other wordings can be put through a chat template."""
        return bool(self.tokenizer.chat_template) and not self.task.of_library

    @property
    def common(self) -> dict[str, Any]:
        """Return the settings of any scorer."""
        return self.limits | {"chat": self.wording.chat}

    def make(self, wording: Wording) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of a wording, and its record; InputError for settings that do not fit."""
        return dataclasses.replace(self, wording=wording).made()

    def made(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of the maker's own wording, and its record."""
        make = self.of_choices if self.task.choice else self.of_open_questions
        scorer, record = (self.of_library if self.task.of_library else make)()
        chat = dict(TEMPLATE_ARGUMENTS) if self.wording.chat else None
        return scorer, {"scorer": scorer.name, "chat": chat} | record

    def of_library(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of a task of lm-evaluation-harness, which writes the prompts itself."""
        name = self.task.name
        wording = self.wording
        if wording.is_drawn:
            raise InputError(
                f"the prompts of {name} are lm-evaluation-harness's own: leave out --prompts and "
                "--choose-prompts."
            )
        if wording.chat or wording.format or wording.shots_file or wording.seed:
            raise InputError(
                f"the prompts of {name} are lm-evaluation-harness's own: leave out --chat, "
                "--format, --shots-file and --shots-seed."
            )
        names = ("options", "options-norm") if self.task.choice else ("generation",)
        scorer_class = self.choose(names[0], names)
        prompt = {"format": LIBRARY, "shots": [], "num_fewshot": wording.shots}
        if self.task.choice:
            return scorer_class(self.tokenizer, **self.common), {"prompt": prompt}
        grader: Any = load_task(name, self.hub, self.flags.rule)
        scorer = scoring.FilteredGeneration(self.tokenizer, grader, **self.decoding())
        prompt |= {"stop": list(scorer.stop.strings), "stop_tokens": list(scorer.stop.tokens)}
        return scorer, {"prompt": prompt} | scorer.record()

    def of_choices(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of multiple choice."""
        usual_scorer, usual_format = DEFAULTS.get(self.task.kind, USUAL)
        scorer_class: Any = self.choose(usual_scorer)
        formats = scorer_class.formats
        style = self.wording.format or (usual_format if usual_format in formats else "plain")
        if self.wording.is_drawn and self.wording.format is None:
            if self.wording.shots:  # which the plain prompt of letters does not show
                formats = ["harness" if scorer_class.lists_options else "plain"]
            style = self.wording.choose("format", formats)
        shots = self.shots(0)
        options = dict[str, Any](self.common)
        record: dict[str, Any] = {**shots.digest()}
        if style != "plain" or shots:
            record["prompt"] = {"format": style, **shots.record(self.sources[0][0])}
            options["shots"] = shots
        return scorer_class(self.tokenizer, format=style, **options), record

    def of_open_questions(self) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer of open questions."""
        kind = self.task.kind
        rule = self.flags.rule
        format = format_of(kind, self.wording.format)
        # `exact` is for formats that fix the whole answer
        free = format.shows_work or kind in OWN
        scorer_class: Any = self.choose("generation" if free else "exact")
        if rule is not None:
            format = dataclasses.replace(format, extract=check_rule(rule))
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
        return scorer, {"prompt": prompt} | shots.digest() | scorer.record()

    def decoding(self) -> dict[str, Any]:
        """Return the settings of a scorer that decodes."""
        flags = self.flags
        return self.common | {
            "max_new_tokens": flags.max_new_tokens,
            "temperature": flags.temperature,
            "top_p": flags.top_p,
            "seed": flags.sample_seed,
        }

    def choose(self, default: str, names: Sequence[str] = ()) -> "type[Scorer]":
        """Return the scorer that the user or the task names; `names` are those that fit."""
        name = self.flags.scorer or default
        scorer_class = scoring.scorer_class(name)
        names = names or scoring.scorer_names(open=not self.task.choice)
        if name not in names:
            asks = "is multiple choice" if self.task.choice else "asks open questions"
            raise InputError(
                f"{self.task.name} {asks}, which the scorer {name!r} is not for: use "
                f"{', '.join(names)}."
            )
        for field in DECODING:
            changed = getattr(self.flags, field) != getattr(ScorerFlags, field)
            if changed and not scorer_class.decodes:
                raise InputError(f"{field} is a setting of the scorer `generation`: leave it out.")
        return scorer_class

    def shots(self, default: int) -> Shots:
        """Load the questions shown before each."""
        wording = self.wording
        return self.load_shots(
            default if wording.shots is None else wording.shots,
            shots_file=wording.shots_file,
            seed=wording.seed,
            wording=wording if wording.is_drawn else None,
        )
