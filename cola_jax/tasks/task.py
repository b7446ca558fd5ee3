"""`TaskConfig`: the questions of a task, their prompts and their scorer."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from cola_jax import scoring
from cola_jax.errors import InputError, count, shorten
from cola_jax.question import Question, content, split
from cola_jax.scoring import ScorerName
from cola_jax.scoring.format import FORMATS, format_of
from cola_jax.tasks.formats import load_shots
from cola_jax.tasks.question_table import fields_beside, open_table
from cola_jax.tasks.registry import (
    ARITHMETIC,
    TASKS,
    Task,
    canonical,
    check_task,
    find_task,
    load_questions,
    read_limit,
)
from cola_jax.tasks.scorers import DEFAULTS, USUAL, ScorerFlags, ScorerMaker
from cola_jax.tasks.wordings import (
    AGAIN,
    WordedScorer,
    check_count,
    choosing_wordings,
    draw_wordings,
)
from cola_jax.wording import Wording

if TYPE_CHECKING:
    from cola_jax.tasks.prepared import Prepared

log = logging.getLogger(__name__)
Part = Literal["train", "held-out"]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The questions, their prompts and their scorer."""

    task: Annotated[str, arg(aliases=["-t"])]
    """A task that `cola tasks` lists, such as demo or arc_easy; a file of questions (JSON, JSONL,
    CSV, TSV, Parquet or Excel), with columns such as question, options and answer, or a folder that
    `datasets` has saved; or another task of lm-evaluation-harness that chooses or decodes, such as
    hellaswag (extra lm-eval). `cola search` and `cola evaluate` take several, such as
    arc_easy,gsm8k, each with a directory of its own."""
    split: str | None = None
    """Split of a task from the Hub; its test split by default."""
    hub: str | None = None
    """Hub id, or local directory of the same layout, to take the task's data set from instead."""
    limit: Annotated[int | float | str | None, arg(aliases=["-l"], metavar="N|SHARE")] = None
    """Number of questions, from the first, or a share of them, such as 0.1 or 10%; all by default,
    100 of arithmetic."""
    level: int | None = None
    """Difficulty of MATH, DART-Math or arithmetic, 1 to 5."""
    subject: str | None = None
    """Subject of MMLU, MATH or DART-Math as their rows name it, such as abstract_algebra or
    Algebra."""
    fields: Annotated[str | None, arg(metavar="FIELD=COLUMN,...")] = None
    """Columns of a file that their names do not explain, such as
    question=ctx,options=endings,answer=label; options in several columns are options=a+b+c+d."""
    answers_from: Literal[0, 1] | None = None
    """Number of the first option, where the answers of a file are numbers that may count from 0 or
    from 1."""
    task_seed: int = 0
    """Random seed of the arithmetic task's questions."""
    scorer: ScorerName | None = None
    """How an answer is scored. options, options-norm: by the likelihood of each option's text, raw
    or per character; letter, letter-strict: by the most likely offered letter, or the most likely
    token of all; exact: by whether greedy decoding gives the gold answer; generation: by decoding
    and grading. `cola tasks` lists each task's scorers, the default first."""
    format: str | None = None
    """Prompt format: direct (the answer alone, in a box), harness (lm-evaluation-harness's), or
    plain; `cola tasks` lists each task's, the default first."""
    rule: str | None = None
    """Rule that finds the answer in a completion, instead of the format's: boxed, hashes, number,
    minerva or line (see tasks/README.md); of a task of lm-evaluation-harness, one of its filters,
    such as flexible-extract."""
    shots: Annotated[int | None, arg(name="num-fewshot")] = None
    """Number of solved examples before each question; `cola tasks` lists the default."""
    shots_file: str | None = None
    """File of the examples, instead of the task's training split."""
    shots_seed: int = 0
    """Random seed of the arithmetic task's examples, and of the prompts that are drawn."""
    choose_prompts: Annotated[int | None, arg(metavar="N")] = None
    """Number of prompts (other solved examples, order of listed options, format) over which a
    result is chosen: each question is asked in one of them. 4 for scan, static and menu where
    prompts show examples or list options, else 1."""
    prompts: Annotated[int | None, arg(metavar="N")] = None
    """Number of other prompts, drawn at random. A search asks again in them along the paths that
    it found: 4 where there are so many, 0 for none. Others ask each question in them to measure a
    result: 8 for verify, and for static and menu where prompts show examples or list options, else
    1, which is the task's own."""
    chat: bool = False
    """Put the prompt through the model's chat template."""
    max_new_tokens: int | None = None
    """Most tokens that `generation` decodes; the format's limit by default."""
    temperature: float = 0.0
    """Temperature at which `generation` draws tokens; 0 decodes greedily."""
    top_p: float = 1.0
    """Share of the probability, of the likeliest tokens, from which `generation` draws; 1 for
    all."""
    sample_seed: int = 0
    """Random seed of drawn tokens, combined with the question's id and the path."""
    held_out: int = 0
    """Number of questions kept apart, beyond the limit, for measuring; chosen by a hash of their
    texts."""
    held_out_from: str | None = None
    """File of the held-out questions, instead of some of the task's own: all of its questions, or
    the first --held-out."""
    held_out_seed: int = 0
    """Random seed of the choice of held-out questions."""
    part: Part = "train"
    """Questions to run: the training questions, or the held-out ones."""

    def __post_init__(self):
        if not isinstance(self.task, str):  # tyro's mark of a required value
            return
        task, subject = canonical(self.task)
        if subject is not None and self.subject not in (None, subject):
            raise InputError(f"{self.task} has one subject, and {self.subject!r} is another.")
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "subject", subject or self.subject)
        object.__setattr__(self, "limit", read_limit(self.limit))
        for name in ("prompts", "choose_prompts"):
            check_count(name, getattr(self, name))

    def find(self, source: str) -> Task:
        """Return the task of a name or file, read with the same columns; see `find_task`."""
        return find_task(source, self.fields, self.answers_from)

    @property
    def chooses_over_several(self) -> bool:
        """Whether a result is chosen over several prompts."""
        return (self.choose_prompts or 1) > 1

    @property
    def measures_in_several(self) -> bool:
        """Whether a result is measured in several prompts."""
        return (self.prompts or 1) > 1

    def with_prompts(self, choose: int, measure: int) -> "TaskConfig":
        """Return the task with these numbers of prompts where none are given.

        They are 1 where the task has no shots and no listed options of which to draw.
        """
        usual = (choose, measure) if self.draws_prompts() else (1, 1)
        given = self.choose_prompts, self.prompts
        choose, measure = (
            new if old is None else old for old, new in zip(given, usual, strict=True)
        )
        return dataclasses.replace(self, choose_prompts=choose, prompts=measure)

    def draws_prompts(self) -> bool:
        """Tell whether any number of prompts can be drawn: with shots, or listed options."""
        task = self.find(self.task)
        if not task.choice:
            default = 0 if task.of_library else format_of(task.kind, self.format).shots
            return (default if self.shots is None else self.shots) > 0 and not task.of_library
        scorer = self.scorer or DEFAULTS.get(task.kind, USUAL)[0]
        lists_options = scoring.scorer_class(scorer).lists_options
        return not task.of_library and (bool(self.shots) or lists_options)

    def check(self) -> None:
        """Raise InputError for an unknown task, and other prompts of one of the library.

        Reads no model, and of a file of questions as much as tells its fields.
        """
        check_task(self.task, self.fields, self.answers_from)
        wanted = max(self.prompts or 1, self.choose_prompts or 1)
        if wanted > 1 and self.find(self.task).of_library:
            raise InputError(
                f"{self.task} has one prompt, and {wanted} are wanted: {self.more_prompts()}."
            )

    def more_prompts(self) -> str:
        """Name the flags with which a task of few prompts has others to draw."""
        task = self.find(self.task)
        if task.of_library:
            return "its prompt is lm-evaluation-harness's own, so give another task"
        examples = "--num-fewshot 2"
        if not task.hub and task.name != ARITHMETIC and self.shots_file is None:
            examples += " --shots-file FILE"
        shown = f"give {examples}, to show examples"
        return f"{shown}, or --scorer letter, to list the options" if task.choice else shown

    def load(self) -> tuple[list[list[Question]], list[Question], list[Question]]:
        """Load the questions of each source, in order: the task, and a file of held-out questions;
        those for training; and those held out. Raises InputError as `load_questions`.
        """
        task = self.find(self.task)
        questions = load_questions(
            self.task,
            limit=self.limit,
            beside=0 if self.held_out_from else self.held_out,
            split=self.split,
            hub=self.hub,
            subject=self.subject,
            level=self.level,
            seed=self.task_seed or None,
            num_fewshot=self.shots if task.of_library else None,
            rule=self.rule if task.of_library else None,
            fields=self.fields,
            answers_from=self.answers_from,
        )
        if not self.held_out_from:
            return [questions], *hold_out(questions, self.held_out, self.held_out_seed)
        fields = fields_beside(self.held_out_from, self.fields)
        kind = find_task(self.held_out_from, fields, self.answers_from).kind
        if kind != task.kind:
            raise InputError(
                f"{self.held_out_from} asks {kind} questions, {self.task} {task.kind} questions: "
                "hold out questions of the same kind."
            )
        held = load_questions(
            self.held_out_from,
            limit=self.held_out or None,
            fields=fields,
            answers_from=self.answers_from,
        )
        check_disjoint(questions, held)
        return [questions, held], questions, held

    def prepare(
        self,
        tokenizer: Any,
        *,
        context: int,
        stop_tokens: Callable[[], Sequence[int]],
        decoy: Callable[[Question], str | None] | None = None,
        first: int | None = None,
        again: bool = False,
    ) -> "Prepared":
        """Load and check the questions, each to be asked in one of `choose_prompts` prompts.

        Args:
          context: the longest prompt allowed, in tokens.
          stop_tokens: called for open questions only: not every model names stop tokens.
          decoy: chooses a wrong answer to an open question for its control search.
          first: take this many questions alone, and none that are held out.
          again: draw `prompts` other wordings in which found paths are asked again.

        Raises:
          InputError: for an invalid task, row, prompt or setting.
        """
        from cola_jax.scoring.encoder import Encoder
        from cola_jax.tasks.prepared import Prepared

        maker, questions, others = self.maker(tokenizer, context, stop_tokens, first)
        if decoy is not None:
            if maker.task.choice:
                raise InputError(f"{self.task} is multiple choice: its wrong options are given.")
            questions = [question.with_decoy(decoy(question)) for question in questions]
        measuring = 1 if again else self.prompts or 1
        prompts = choosing_wordings(maker, self.choose_prompts or 1, measuring)
        encoder = Encoder(tuple(prompt.scorer for prompt in prompts))
        record = prompts[0].record
        if len(prompts) > 1:
            record = record | {"choose_prompts": [prompt.record for prompt in prompts]}
            questions = [prompts[encoder.group(each)].ask(each) for each in questions]
        if decoy is not None:
            record["decoys"] = "answers on other paths"
        prepared = Prepared.of(questions, encoder, record, others)
        if not again:
            return prepared
        exact, usual = self.prompts is not None, 0 if maker.task.of_library else AGAIN
        number = usual if self.prompts is None else self.prompts
        return prepared.asked_again(maker, number, prompts, exact=exact)

    def prepare_prompts(
        self,
        tokenizer: Any,
        *,
        context: int,
        stop_tokens: Callable[[], Sequence[int]],
        first: int | None = None,
        usual: int = 1,
    ) -> "list[Prepared]":
        """Load and check the questions, all to be asked in each of `prompts` prompts.

        A single one is the task's own, several are drawn: `usual` where no number is given, or as
        many as there are. `first` and InputError are as for `prepare`.
        """
        from cola_jax.tasks.prepared import Prepared

        maker, questions, others = self.maker(tokenizer, context, stop_tokens, first)
        number, exact = usual if self.prompts is None else self.prompts, self.prompts is not None
        wordings = [WordedScorer.of(maker)]
        if number > 1:
            drawn = draw_wordings(maker, "measure", number, wordings, exact=exact)
            if len(drawn) < number:
                log.warning(
                    "%s has %s, in which results are measured: for more, %s",
                    self.task,
                    count(len(drawn), "other wording"),
                    self.more_prompts(),
                )
            wordings = drawn or wordings
        return [
            Prepared.of(
                list(map(worded.ask, questions)),
                worded.encoder,
                worded.record,
                held_out=list(map(worded.ask, others)),
            )
            for worded in wordings
        ]

    def golds(self) -> Iterator[tuple[str, str]]:
        """Yield the answers in the files of the task, each after its place.

        Those of all rows, so that a larger limit grades no question otherwise.
        """
        yield from open_table(self.task, self.fields, self.answers_from).golds()
        if other := self.held_out_from:
            fields = fields_beside(other, self.fields)
            yield from open_table(other, fields, self.answers_from).golds()

    def maker(
        self,
        tokenizer: Any,
        context: int,
        stop_tokens: Callable[[], Sequence[int]],
        first: int | None = None,
    ) -> "tuple[ScorerMaker, list[Question], list[Question]]":
        """Return a maker of scorers, the questions to run, and those held out."""
        task, (sources, train, held) = self.find(self.task), self.load()
        questions, others = (train, held) if self.part == "train" else (held, [])
        if not questions:
            raise InputError("no questions are held out: give held_out or held_out_from.")
        if first is not None:
            questions, others = questions[:first], []
        limits: dict[str, Any] = {"context": context}
        if not task.choice:
            limits["stop_tokens"] = stop_tokens()
        shots = functools.partial(
            load_shots,
            self.task,
            questions=sources,
            level=self.level,
            hub=None if task.shots_of else self.hub,
            fields=self.fields,
            answers_from=self.answers_from,
        )
        maker = ScorerMaker(
            task,
            self.wording(),
            self.scorer_flags(),
            tokenizer,
            sources,
            limits,
            shots,
            self.golds,
            self.hub,
        )
        return maker, questions, others

    def wording(self) -> Wording:
        """Return the task's own wording, as its flags have it."""
        return Wording(self.format, self.shots, self.shots_file, self.shots_seed, self.chat)

    def scorer_flags(self) -> ScorerFlags:
        """Return the flags that choose the scorer, and what it decodes."""
        names = (field.name for field in dataclasses.fields(ScorerFlags))
        return ScorerFlags(**{name: getattr(self, name) for name in names})


def hold_out(
    questions: Sequence[Question], held_out: int, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Divide questions into those for training and `held_out` others, each part in order.

    A hash of its text and the seed decides where a question belongs. Raises InputError where none
    would be left for training, and for a text in both parts.
    """
    if not 0 <= held_out < len(questions):
        raise InputError(
            f"{held_out} questions cannot be held out of {len(questions)}: leave some for training."
        )
    if not held_out:
        return list(questions), []
    order = split([question.text for question in questions], f"held out {seed}")
    train = [questions[i] for i in sorted(order[held_out:])]
    held = [questions[i] for i in sorted(order[:held_out])]
    check_disjoint(train, held)
    return train, held


def check_disjoint(train: Sequence[Question], held: Sequence[Question]) -> None:
    """Raise InputError that names held-out questions which are training questions as well."""
    ids, texts = {question.id for question in held}, {content(question) for question in held}
    known = [each for each in train if each.id in ids or content(each) in texts]
    ids, texts = {question.id for question in known}, {content(question) for question in known}
    both = [question.id for question in held if question.id in ids or content(question) in texts]
    if both:
        raise InputError(
            f"{len(both)} of {len(held)} held-out questions are training questions as well "
            f"({shorten(both)}): give other files, or a split of one (--held-out)."
        )


def catalogue() -> list[dict[str, str]]:
    """Describe each task: its data set, split, scorers, formats and shots, the default first."""
    rows = []
    for task in (*TASKS.values(), Task("FILE.jsonl", "prompt")):
        scorers, formats = scoring.scorer_names(open=not task.choice), FORMATS.get(task.kind, ())
        scorer, style = DEFAULTS.get(task.kind, USUAL)
        scorer = "generation" if task.kind == "prompt" else scorer
        styles = [each.name for each in formats]
        if task.choice:
            styles = sorted(scoring.scorer_class(scorer).formats, key=style.__ne__)
        source = "built in" if task.file else "generated" if task.name == ARITHMETIC else "yours"
        rows.append(
            {
                "task": task.name.replace("-", "_"),
                "data set": task.hub or source,
                "split": task.split if task.hub else "",
                "scorers": ", ".join(sorted(scorers, key=scorer.__ne__)),
                "formats": ", ".join(styles),
                "shots": ", ".join(str(each.shots) for each in formats) or "0",
            }
        )
    return rows
