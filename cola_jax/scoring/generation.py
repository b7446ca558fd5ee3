"""Scorers that decode: `generation`, which grades answers, and `Completions`, which grades none."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cola_jax.chat import render_chat, user_message
from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.execute.decoder import (
    NOT_FINITE,
    TRUNCATED,
    Decoder,
    Sampling,
    Stop,
    check_decode_memory,
)
from cola_jax.execute.kv_cache import DecodeRow
from cola_jax.execute.memory import Memory
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Worker
from cola_jax.prompts import Readings
from cola_jax.question import Question
from cola_jax.scoring.answer import AnswerRule, GenerationSettings, check_rule, find_answer
from cola_jax.scoring.answer_key import TIE
from cola_jax.scoring.format import Format
from cola_jax.scoring.grader import AnyGrader, Grade, Grader
from cola_jax.scoring.scorer import (
    Encoded,
    Evaluate,
    Scorer,
    ShotSource,
    check_length,
    encode_prompt,
    most_options,
    pack,
    prompts_of,
    shots_of,
)
from cola_jax.scoring.verdicts import NO_ANSWER, Completion, Verdicts

GOLD = 0  # the options of an open question
DECOY = 1
GRADED = 16  # answers that are graded, and then kept, together

KeepVerdicts = Callable[[np.ndarray, Verdicts], None]  # entries [2, n] of paths, and theirs [n]
DecodeRows = Sequence[DecodeRow]
AskedQuestions = Sequence[Question]  # of rows or completions, one each


class DecodingScorer(Scorer):
    """A scorer that decodes completions after prompts; by default it grades none."""

    open = True
    decodes = True
    log_likelihoods = True
    stop: Stop

    def __init__(
        self,
        tokenizer: Any,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        **options: Any,
    ):
        """Take the arguments of `Scorer`, and those of `generate` that draw tokens.

        A draw depends on the seed, the question's id, the path and the token's index alone.
        """
        super().__init__(tokenizer, **options)
        self.sampling = Sampling(temperature, seed, top_p)

    def prompt(self, question: Question) -> str:
        """Write a question's prompt, by default its text."""
        if not self.chat:
            return question.text
        return render_chat(self.tokenizer, user_message(question.text))

    def check(self, question: Question) -> None:
        """Raise InputError where nothing would be decoded."""
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, it is {self.max_new_tokens}.")

    def encode(self, question: Question) -> Encoded:
        """Encode the prompt alone; InputError where it is empty, or too long with new tokens."""
        self.check(question)
        text = self.prompt(question)
        encoded = encode_prompt(question, self.tokenizer, text, special=not self.chat)
        if not encoded.num_tokens:
            raise InputError(f"prompt {question.id} is empty: there is nothing to complete.")
        check_length(encoded, self.context, self.max_new_tokens)
        return encoded

    def complete(self, rows: DecodeRows, questions: AskedQuestions) -> list[Completion]:
        """Make the completions of decoded rows; a scorer that grades compares them with gold."""
        return [completion(row, self.stop) for row in rows]

    def give_decoys(self, made: Sequence[Completion], questions: AskedQuestions) -> list[bool]:
        """Return whether each wrong completion gives the decoy of its question."""
        return [False] * len(made)

    def row_verdicts(self, rows: DecodeRows, questions: AskedQuestions) -> Verdicts:
        """Return the verdicts [R] of R decoded rows, each of its question."""
        completions = self.complete(rows, questions)
        wrong = [
            i
            for i, made in enumerate(completions)
            if made.grade is Grade.WRONG
            and made.finish != NOT_FINITE
            and len(questions[i].options) > DECOY
        ]
        decoys = np.zeros(len(rows), bool)
        decoys[wrong] = self.give_decoys(
            [completions[i] for i in wrong], [questions[i] for i in wrong]
        )
        return completion_verdicts(completions, decoys, rows)

    @contextlib.contextmanager
    def evaluator(
        self, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ) -> Iterator[Evaluate]:
        def evaluate(paths: np.ndarray, keep: KeepVerdicts | None = None) -> Verdicts:
            out = Verdicts.empty(paths.shape[:2], most_options(batch))
            out.log_likelihoods[:] = self.log_likelihoods
            for rows in in_groups(decoder.decode(decoder.rows_of(paths)), GRADED):
                verdicts = self.row_verdicts(rows, [batch[row.question].question for row in rows])
                entries = np.array([[row.question, row.candidate] for row in rows]).T
                out.put(tuple(entries), verdicts)
                if keep is not None:
                    keep(entries, out.take(tuple(entries)))
            return out

        decoder = Decoder(
            worker,
            prompts_of(batch),
            workload,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            sampling=self.sampling,
            names=[encoded.question.id for encoded in batch],
        )
        with contextlib.closing(decoder):
            yield evaluate

    def check_confirmable(self) -> None:
        if self.sampling.temperature:
            raise InputError(
                "a search confirms the answers that it finds, which greedy decoding alone gives "
                "again: leave out the temperature."
            )

    def reread(self, encoded: Encoded, completion: Completion | None) -> Encoded:
        """Put the decoded tokens after their prompt, and read at each of them."""
        assert completion is not None
        row, option = pack(np.asarray(encoded.prompts.ids).tolist(), [completion.tokens])
        prompts = row.replace(
            branch=np.zeros_like(row.branch),  # one text, as it was decoded
            embeddings=encoded.prompts.embeddings,
            places=encoded.prompts.places,
        )
        return dataclasses.replace(encoded, prompts=prompts, option=option)

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Confirm the readings of `reread`: each token must be the likeliest again."""
        same = (readings.token == encoded.prompts.targets).all(axis=1) & readings.finite
        return Verdicts.of_margins(np.where(same, 0.0, -1.0))

    def check_memory(
        self, config: ModelConfig, memory: Memory, batch: Sequence[Encoded], positions: int
    ) -> None:
        check_decode_memory(config, prompts_of(batch), memory, positions, self.max_new_tokens)

    def record(self) -> dict[str, Any]:
        return super().record() | {"max_new_tokens": self.max_new_tokens} | self.sampling.record()


def in_groups(steps: Iterable[list[DecodeRow]], size: int) -> Iterator[list[DecodeRow]]:
    """Join the rows that end in one step after the other to groups of at least `size`."""
    group: list[DecodeRow] = []
    for rows in steps:
        group += rows
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group


class Completions(DecodingScorer):
    """Decodes completions of prompts; there is no answer, and no verdict."""

    name = "completions"

    def __init__(self, tokenizer: Any, *, stop: Stop, max_new_tokens: int, **options: Any):
        """Take the arguments of `DecodingScorer`, and the end of completions."""
        super().__init__(tokenizer, **options)
        self.stop = stop
        self.max_new_tokens = max_new_tokens

    def record(self) -> dict[str, Any]:
        stop = {"stop": list(self.stop.strings), "stop_tokens": [int(i) for i in self.stop.tokens]}
        return super().record() | stop


class OpenScorer(Scorer):
    """A scorer of open questions, which are asked and answered in a format."""

    open = True

    def __init__(
        self,
        tokenizer: Any,
        format: Format,
        *,
        shots: ShotSource = (),
        stop_tokens: Sequence[int] = (),
        **options: Any,
    ):
        """Take the arguments of `Scorer`, a format, shots, and the ids that end a text."""
        super().__init__(tokenizer, **options)
        self.format = format
        self.shots = shots
        self.rule: AnswerRule = check_rule(format.extract)
        # text after a closed box is ignored; other answers are complete when their text ends
        complete = box_closed if self.rule == "boxed" else None
        self.stop = Stop(tuple(stop_tokens), format.stop, rule=complete, tokenizer=tokenizer)

    def check(self, question: Question) -> None:
        """Raise InputError for multiple choice, and too few shots, as well."""
        super().check(question)
        if not question.open:
            raise InputError(
                f"question {question.id} is multiple choice: use a scorer of options or letters."
            )
        shots_of(self.shots, question)

    def prompt(self, question: Question) -> str:
        """Write a question's prompt."""
        text = self.format.ask(question, shots_of(self.shots, question))
        return render_chat(self.tokenizer, user_message(text)) if self.chat else text

    def record(self) -> dict[str, Any]:
        return super().record() | {"rule": self.rule}


class Generation(OpenScorer, DecodingScorer):
    """Decodes an answer and grades it, by default with math-verify; used as a context manager."""

    name = "generation"

    def __init__(
        self,
        tokenizer: Any,
        format: Format,
        *,
        max_new_tokens: int | None = None,
        grader: type[AnyGrader] = Grader,
        **options: Any,
    ):
        """Take the arguments of `OpenScorer` and `DecodingScorer`; the format's limit by default.

        `grader` is that of `choose_grader`. Raises InputError where it needs math-verify, which is
        not installed.
        """
        super().__init__(tokenizer, format, **options)
        usual = format.max_new_tokens
        self.max_new_tokens = usual if max_new_tokens is None else max_new_tokens
        self.grader_class = grader
        self.grader_name = grader.describe()
        self.grader: AnyGrader | None = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "Generation":
        """Start the grader's processes."""
        if self.grader is None:
            self.grader = self.stack.enter_context(self.grader_class())
            self.stack.callback(setattr, self, "grader", None)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def record(self) -> dict[str, Any]:
        return super().record() | {"grader": self.grader_name}

    def complete(self, rows: DecodeRows, questions: AskedQuestions) -> list[Completion]:
        completions = [completion(row, self.stop, self.rule, Grade.WRONG) for row in rows]
        grades = self.grade(completions, [question.gold for question in questions])
        return [
            dataclasses.replace(each, grade=grade)
            for each, grade in zip(completions, grades, strict=True)
        ]

    def give_decoys(self, made: Sequence[Completion], questions: AskedQuestions) -> list[bool]:
        decoys = [question.options[DECOY] for question in questions]
        return [grade is Grade.RIGHT for grade in self.grade(made, decoys)]

    def grade(self, completions: Sequence[Completion], options: Sequence[str]) -> list[Grade]:
        """Grade completions, each against an option; wrong without a complete answer."""
        assert self.grader is not None, "a scorer that grades is used as a context manager"
        pairs = {
            i: (each.answer, option)
            for i, (each, option) in enumerate(zip(completions, options, strict=True))
            if each.answer is not None and not each.truncated and each.finish != NOT_FINITE
        }
        grades = dict(zip(pairs, self.grader.grade(list(pairs.values())), strict=True))
        return [grades.get(i, Grade.WRONG) for i in range(len(completions))]


class CompletionGrader(Protocol):
    """The end and the grading of completions of a task of lm-evaluation-harness."""

    settings: GenerationSettings

    def grade(
        self, question: Question, text: str, gold: str | None = None
    ) -> tuple[str | None, Grade]: ...
    def record(self) -> dict[str, Any]: ...


class FilteredGeneration(DecodingScorer):
    """`generation` for a task of lm-evaluation-harness, which filters and grades completions."""

    name = "generation"

    def __init__(
        self,
        tokenizer: Any,
        grader: CompletionGrader,
        *,
        stop_tokens: Sequence[int],
        max_new_tokens: int | None = None,
        **options: Any,
    ):
        """Take the arguments of `DecodingScorer`, the task's grader, and its limit by default."""
        super().__init__(tokenizer, **options)
        until, usual = grader.settings
        self.max_new_tokens = usual if max_new_tokens is None else max_new_tokens
        self.grader = grader
        end = tokenizer.eos_token  # a stop string as well, as in the harness's model `hf`
        strings = (*until, *([end] if end and end not in until else []))
        self.stop = Stop(tuple(stop_tokens), strings, tokenizer=tokenizer)

    def record(self) -> dict[str, Any]:
        return super().record() | self.grader.record()

    def complete(self, rows: DecodeRows, questions: AskedQuestions) -> list[Completion]:
        # like the library, it grades texts that the token limit cut; they are recorded as truncated
        # only without an answer
        completions = []
        for row, question in zip(rows, questions, strict=True):
            made = completion(row, self.stop, None, Grade.WRONG)
            if row.finish != NOT_FINITE:
                text = self.tokenizer.decode(list(row.tokens), skip_special_tokens=True)
                text = text[: self.stop.find_string(text)]
                answer, grade = self.grader.grade(question, text)
                cut = row.finish == TRUNCATED and answer is None
                made = dataclasses.replace(
                    made, text=text, answer=answer, grade=grade, truncated=cut
                )
            completions.append(made)
        return completions

    def give_decoys(self, made: Sequence[Completion], questions: AskedQuestions) -> list[bool]:
        return [
            self.grader.grade(question, each.text, question.options[DECOY])[1] is Grade.RIGHT
            for each, question in zip(made, questions, strict=True)
        ]


def box_closed(text: str) -> bool:
    """Whether a text has a complete box."""
    return "}" in text and find_answer(text, "boxed", True).complete


def completion(
    row: DecodeRow, stop: Stop, rule: AnswerRule | None = None, grade: Grade | None = None
) -> Completion:
    """Make the completion of a row, with the answer that a rule finds in its text."""
    text = stop.text(row.tokens)
    cut = row.finish == TRUNCATED
    answer, complete = (None, not cut) if rule is None else find_answer(text, rule, cut)
    return Completion(
        text=text,
        answer=answer,
        finish=row.finish,
        truncated=not complete,
        grade=grade,
        tokens=tuple(row.tokens),
        logprob=float(np.sum(row.logprob)),
    )


def completion_verdicts(
    completions: Sequence[Completion], decoys: np.ndarray, rows: Sequence[DecodeRow]
) -> Verdicts:
    """Score the completions of R rows; `decoys` [R] marks those that give the decoy.

    The score of the option that was answered is the least lead of a chosen token over its rival,
    that of the others the same with a minus sign. A drawn token may trail its rival: as a tie.
    """
    right = np.array([each.grade is Grade.RIGHT for each in completions], bool)
    finite = np.array([each.finish != NOT_FINITE for each in completions], bool)
    answer = np.where(right, GOLD, np.where(decoys, DECOY, NO_ANSWER))
    leads = [
        min((a - b for a, b in zip(row.logprob, row.rival, strict=True)), default=0.0)
        for row in rows
    ]
    nearest = np.maximum(np.array(leads, np.float32), TIE)  # a tie must have a sign
    scores = np.stack([np.where(hit, nearest, -nearest) for hit in (right, decoys)], axis=1)
    verdicts = Verdicts.of_scores(scores, GOLD, finite, answer=answer, outside=np.nan)
    verdicts.completion[:] = completions
    return verdicts
