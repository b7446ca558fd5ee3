"""The shots of a prompt, and whether a format can give the answers of questions."""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cola_jax.errors import InputError, shown
from cola_jax.question import Question, content, digest, question_digest
from cola_jax.scoring.answer import find_answer
from cola_jax.tasks import registry
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.columns import FieldNames
from cola_jax.tasks.harness import SEED
from cola_jax.tasks.question_table import fields_beside, open_table
from cola_jax.tasks.readers import OWN
from cola_jax.tasks.registry import Task, find_task, hub_questions, hub_rows
from cola_jax.wording import Wording

if TYPE_CHECKING:
    from cola_jax.scoring import Generation

REPLIES = {  # the completion in which a rule finds an answer
    "boxed": "\\boxed{{{}}}",
    "hashes": "#### {}",
    "number": "{}",
    "minerva": "Final Answer: The final answer is {}. I hope it is correct.",
    "line": "{}\n",
}
NUMBERS = ("hashes", "number")  # rules that find a number, which may be written otherwise
AROUND = "$. \n"  # ignored around an answer
DRAWN_FROM = 100  # questions of arithmetic of which a drawn wording shows some
ALIKE = {registry.ARITHMETIC, *OWN}  # kinds whose questions may be shown before another


def check_answerable(questions: Iterable[Question], scorer: "Generation") -> None:
    """Raise InputError that names a question whose answer no completion can give.

    The rule does not find it in the completion that states it, a stop string ends the completion
    within it, or it is far longer than `max_new_tokens`.
    """
    for question in questions:
        gold = question.gold
        rule = scorer.rule
        stated = gold if rule not in NUMBERS else find_answer(gold, "number", False).text
        text = REPLIES[rule].format(stated or "")
        answer = find_answer(text[: scorer.stop.find_string(text)], rule, False).text
        if stated is None or answer is None or answer.strip(AROUND) != stated.strip(AROUND):
            raise InputError(
                f"question {question.id}: no completion can give the answer {shown(gold)}, of "
                f"which the rule {rule!r} finds {shown(answer)}: change the answer, or give "
                "another rule or format."
            )
        # a model may give a text in fewer tokens than the tokenizer, but hardly in half of them
        most = 2 * scorer.max_new_tokens
        if len(gold.encode("utf-8", "surrogatepass")) <= most:  # as many tokens, if not fewer
            continue
        size = len(scorer.tokenizer(gold, add_special_tokens=False).input_ids)
        if size > most:
            raise InputError(
                f"question {question.id}: the answer {shown(gold)} has {size} tokens, but at most "
                f"{scorer.max_new_tokens} are decoded: raise --max-new-tokens."
            )


@dataclasses.dataclass(frozen=True)
class Shots:
    """The questions shown before each question: never that question itself.

    They depend on the question and, where they are drawn, on its place in its split: not on the
    number of questions.
    """

    source: str
    count: int
    pool: Mapping[str | None, Sequence[Question]]  # by subject, if that matters
    by_subject: bool = False
    drawn: Mapping[str, Sequence[Question]] | None = None  # by the id of the question asked

    def __len__(self) -> int:
        return self.count

    def __call__(self, question: Question) -> list[Question]:
        """Return the questions shown before a question; InputError where there are too few."""
        subject = question.get("subject") if self.by_subject else None
        drawn = () if self.drawn is None else self.drawn.get(question.id, ())
        rest = (shot for shot in self.pool.get(subject, ()) if shot not in drawn)
        # as in lm-evaluation-harness, another row may be shown that reads like the question
        alike = self.drawn is not None or self.by_subject
        others = (
            shot
            for shot in itertools.chain(drawn, rest)
            if shot.id != question.id and (alike or content(shot) != content(question))
        )
        shots = list(itertools.islice(others, self.count))
        if len(shots) < self.count:
            about = f" of the subject {subject}" if subject else ""
            raise InputError(
                f"{self.source} has {len(shots)} questions{about} to show before question "
                f"{question.id}, but {self.count} shots are wanted: lower the number of shots, or "
                "give a longer file of shots."
            )
        return shots

    def record(self, first: Question) -> dict[str, Any]:
        """Return the record of the shots: those of the first question, and the seed."""
        shots: dict[str, Any] = {"shots": [shot.id for shot in self(first)]}
        return shots if self.drawn is None else shots | {"fewshot_seed": SEED}

    def digest(self) -> dict[str, str]:
        """Return the digest of all questions that may be shown, for a record; {} without shots."""
        if not self.count:
            return {}
        # one more than are shown, for a question that is among them
        end = self.count + 1 if self.drawn is None else None
        texts = [
            (subject, shot.id, shot.solution, question_digest(shot))
            for subject, shots in self.pool.items()
            for shot in shots[:end]
        ]
        return {"shots_digest": digest(self.count, self.by_subject, texts)}


def load_shots(
    name: str,
    count: int,
    *,
    shots_file: str | None = None,
    questions: Sequence[Sequence[Question]] = (),
    level: int | None = None,
    hub: str | None = None,
    seed: int = 0,
    wording: Wording | None = None,
    fields: FieldNames = None,
    answers_from: int | None = None,
) -> Shots:
    """Load `count` questions to show before each question of a task.

    They are the first of `shots_file`, or else of the task's own training split (of MMLU the first
    of the same subject in `dev`), or of the generator of the arithmetic task. Those of ARC are
    drawn for each of `questions`, the questions of each source in order, as lm-evaluation-harness
    does. A drawn wording shuffles them all. `level` and `seed` are of arithmetic, `hub` has the
    training split, and `fields` and `answers_from` read files as `load_questions` does.

    Raises:
      InputError: for a file of questions without a file of shots, and for a file with other fields
        than the task's.
    """
    if count < 0:
        raise InputError(f"the number of shots must be at least 0, got {count}.")
    if count == 0:
        if shots_file is not None:
            raise InputError(
                f"the shots in {shots_file} would not be shown, since the number of shots is 0: "
                "give the number of shots."
            )
        return Shots(name, 0, {})
    task = find_task(name, fields, answers_from)
    drawn = None
    if shots_file is not None:
        candidates = shots_of_file(task, shots_file, fields, answers_from)
    elif task.name == registry.ARITHMETIC:
        size = count + 1 if wording is None else max(DRAWN_FROM, count + 1)
        candidates = iter(arithmetic(level, size, seed, purpose="shots"))
    else:
        candidates = shots_of_split(task, hub)
    pool: dict[str | None, list[Question]] = {}
    if task.kind == "mmlu":
        for question in candidates:
            pool.setdefault(question.get("subject"), []).append(question)
    elif wording is not None:
        pool[None] = list({content(question): question for question in candidates}.values())
    elif task.kind == "arc" and shots_file is None:
        pool[None] = list(candidates)
        drawn = draw_shots(pool[None], count, questions)
    else:  # one more, for a question that is among them
        distinct: dict[tuple[str, ...], Question] = {}
        while len(distinct) <= count and (question := next(candidates, None)) is not None:
            distinct.setdefault(content(question), question)
        pool[None] = list(distinct.values())
    if wording is not None:
        # two more, for one of the question's id and one that reads like it: a split may be long,
        # and workers get the shots of each wording
        pool = {name: wording.shuffle(rows)[: count + 2] for name, rows in pool.items()}
    return Shots(shots_file or name, count, pool, task.kind == "mmlu", drawn)


def draw_shots(
    pool: Sequence[Question], count: int, sources: Sequence[Sequence[Question]]
) -> dict[str, list[Question]]:
    """Draw shots for each question as lm-evaluation-harness's default sampler does."""
    drawn: dict[str, list[Question]] = {}
    for questions in sources:
        generator = random.Random(SEED)
        for question in questions:
            drawn[question.id] = generator.sample(pool, min(count, len(pool)))
    return drawn


def shots_of_file(
    task: Task, file: str, fields: FieldNames = None, answers_from: int | None = None
) -> Iterator[Question]:
    """Yield the questions of a file of shots, in order."""
    fields = fields_beside(file, fields)
    shots = find_task(file, fields, answers_from)
    kinds = {shots.kind, task.kind}
    if shots.name in registry.TASKS or not (len(kinds) == 1 or kinds <= ALIKE):
        raise InputError(
            f"the shots in {file} are {shots.kind} questions, but {task.name} asks {task.kind} "
            "questions: give a file with the task's own fields."
        )
    return open_table(file, fields, answers_from).questions([])


def shots_of_split(task: Task, hub: str | None) -> Iterator[Question]:
    """Yield the questions of the split with a task's shots, in order."""
    if not task.hub:
        raise InputError(
            f"{task.name} is a file of questions to ask, and has none to show: give a file of "
            "shots, or ask for 0 shots."
        )
    source = registry.TASKS[task.shots_of or task.name]
    return hub_questions(source, hub_rows(source, source.shots, hub), hub)
