"""Judges: what runs waves of paths for a group of questions and returns their verdicts."""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.execute.decoder import BROKEN, CUT, rows_of
from cola_jax.execute.engine import Engine
from cola_jax.execute.inputs import buckets
from cola_jax.execute.kv_cache import Row
from cola_jax.execute.memory import Memory, choose_decode_sizes, choose_sizes
from cola_jax.execute.pipeline import Flight, landed
from cola_jax.execute.reference import submit_reference
from cola_jax.execute.worker import Lane
from cola_jax.path import STOP
from cola_jax.prompts import Prompts
from cola_jax.scoring.answer import find_answer
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.grader import Grade, Grader
from cola_jax.scoring.verdicts import DECOY, GOLD, Said, Verdicts, score, score_texts

Progress = Callable[[int], None]


class Judge(abc.ABC):
    """Judges paths of the questions it was made for."""

    @abc.abstractmethod
    def judge(self, paths: np.ndarray, on_progress: Progress) -> Flight[Verdicts]:
        """Runs the paths [B, C, P]; returns verdicts with fields [B, C]."""

    @abc.abstractmethod
    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> Flight[list[bool | None]]:
        """Says of one path [B, P] a question, judged before, whether it is right in float32.

        `verdicts` have fields [B]. None where a question has no path.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what it holds; nothing that was submitted may be left to run."""


def make_judge(
    engine: Engine,
    questions: Sequence[Encoded],
    lane: Lane,
    *,
    each: int,
    abreast: int,
    positions: int,
    grader: Grader | None,
) -> Judge:
    """Makes the judge of a group of questions of one bucket and one scorer.

    `each` is how many paths of a question it will see, at most `abreast` at a time and of at most
    so many `positions`.
    """
    if questions[0].scorer != "generate":
        return Reader(engine, questions, lane, each)
    assert grader is not None
    return Decoding(engine, questions, lane, abreast, positions, grader)


class Reader(Judge):
    """Judges by reading the model at the positions of its prompts."""

    def __init__(self, engine: Engine, questions: Sequence[Encoded], lane: Lane, each: int):
        self.questions = questions
        prompts = Prompts.stack([encoded.prompts for encoded in questions])
        self.batch = engine.batch(prompts, each, lane)

    def judge(self, paths: np.ndarray, on_progress: Progress) -> Flight[Verdicts]:
        readings = yield from landed(self.batch.submit(paths), on_progress)
        out = Verdicts.none(paths.shape[:2])
        for b, encoded in enumerate(self.questions):
            present = paths[b, :, 0] != STOP
            row = jax.tree.map(lambda x, b=b, present=present: x[b][present], readings)
            put(out, (b, present), score(row, encoded))
        return out

    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> Flight[list[bool | None]]:
        submitted = self.batch.submit_reference(paths[:, None], np.dtype(np.float32))
        readings = yield from landed(submitted)
        return [
            None
            if paths[b, 0] == STOP
            else bool(score(jax.tree.map(lambda x, b=b: x[b], readings), encoded).verdict[0])
            for b, encoded in enumerate(self.questions)
        ]

    def close(self) -> None:
        self.batch.close()


class Decoding(Judge):
    """Judges by decoding answers and grading them."""

    def __init__(
        self,
        engine: Engine,
        questions: Sequence[Encoded],
        lane: Lane,
        abreast: int,
        positions: int,
        grader: Grader,
    ):
        self.questions, self.lane, self.grader = questions, lane, grader
        self.reply = questions[0].reply
        self.prompts = Prompts.stack([encoded.prompts for encoded in questions])
        self.decoder = engine.decoder(
            self.prompts,
            lane,
            positions=positions,
            max_new_tokens=self.reply.max_new_tokens,
            stop=self.reply.stop,
            wanted=abreast * len(questions),
        )
        self.thread = ThreadPoolExecutor(1, "grade")  # so that the device need not wait

    def judge(self, paths: np.ndarray, on_progress: Progress) -> Flight[Verdicts]:
        rows = rows_of(paths)
        yield from self.decoder.decode(rows, on_progress)
        said: Future[list[Said]] = self.thread.submit(self.grade, rows)
        texts = yield said
        out = Verdicts.none(paths.shape[:2])
        question = np.array([row.question for row in rows], int)
        for b in range(len(self.questions)):
            mine = np.flatnonzero(question == b)
            nearest = np.array([closest(rows[i]) for i in mine], np.float32)
            verdicts = score_texts([texts[i] for i in mine], nearest)
            put(out, (b, paths[b, :, 0] != STOP), verdicts)
        return out

    def grade(self, rows: Sequence[Row]) -> list[Said]:
        """Finds the answers of rows and grades them."""
        found = [self.find(row) for row in rows]
        graded = [
            i
            for i, (row, (_, answer, cut)) in enumerate(zip(rows, found, strict=True))
            if answer is not None and not cut and row.finish != BROKEN
        ]
        verdict = self.compare(rows, found, graded, GOLD)
        # the control of a search is held to what gold is held to, not to the letter
        wrong = [i for i in graded if verdict[i] is Grade.WRONG]
        decoy = self.compare(rows, found, wrong, DECOY)
        return [
            Said(
                text=text,
                answer=answer,
                finish=row.finish,
                cut=cut,
                grade=verdict.get(i, Grade.WRONG),
                ids=tuple(row.tokens),
                logprob=float(np.sum(row.logprob)),
                decoy=decoy.get(i) is Grade.RIGHT,
            )
            for i, (row, (text, answer, cut)) in enumerate(zip(rows, found, strict=True))
        ]

    def compare(
        self,
        rows: Sequence[Row],
        found: Sequence[tuple[str, str | None, bool]],
        some: Sequence[int],
        option: int,
    ) -> dict[int, Grade]:
        """Grades the answers of some rows against an option, where their questions have it."""
        options = {i: self.questions[rows[i].question].question.options for i in some}
        having = [i for i in some if option < len(options[i])]
        pairs = [(str(found[i][1]), options[i][option]) for i in having]
        return dict(zip(having, self.grader.grade(pairs), strict=True))

    def find(self, row: Row) -> tuple[str, str | None, bool]:
        """Returns a row's text, the answer in it, and whether the limit cut it."""
        text = self.reply.stop.text(row.tokens)
        answer, complete = find_answer(text, self.reply.rule, row.finish == CUT)
        return text, answer, not complete

    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> Flight[list[bool | None]]:
        """Feeds what was decoded to the reference: each token must be the likeliest again."""
        right = [b for b in range(len(paths)) if paths[b, 0] != STOP]
        out: list[bool | None] = [None] * len(paths)
        if not right:
            return out
        texts = [self.forced(b, verdicts.said[b]) for b in right]
        prompts = Prompts.stack(texts)
        submitted = submit_reference(
            self.lane, prompts, paths[right][:, None], np.dtype(np.float32)
        )
        readings = yield from landed(submitted)
        for i, b in enumerate(right):
            count = len(np.asarray(texts[i].targets))
            same = readings.token[i, 0, :count] == np.asarray(texts[i].targets)
            out[b] = bool(same.all() and readings.finite[i, 0])
        return out

    def forced(self, b: int, said: Said) -> Prompts:
        """Puts what a path decoded behind its prompt, read at every token of it."""
        row = self.questions[b].prompts
        ids = [*np.asarray(row.ids).tolist(), *said.ids]
        first = len(ids) - len(said.ids) - 1
        return Prompts(
            ids=np.array(ids[:-1], np.int32),
            positions=np.arange(len(ids) - 1, dtype=np.int32),
            branch=np.zeros(len(ids) - 1, np.int32),
            read=np.arange(first, len(ids) - 1, dtype=np.int32),
            targets=np.array(said.ids, np.int32),
        )

    def close(self) -> None:
        self.decoder.close()
        self.thread.shutdown()


def put(out: Verdicts, where: tuple, verdicts: Verdicts) -> None:
    """Writes the verdicts of some paths of a question."""
    for mine, new in zip(out, verdicts, strict=True):
        mine[where] = new


def closest(row: Row) -> float:
    """Returns the least difference between a token that a row chose and the next best."""
    return min((a - b for a, b in zip(row.logprob, row.rival, strict=True)), default=0.0)


def prompt_buckets(questions: Sequence[Encoded]) -> list[tuple[int, int]]:
    """Returns T and Q of each question."""
    return buckets(Prompts.stack([encoded.prompts for encoded in questions]))


def check_budget(
    config: ModelConfig, questions: Sequence[Encoded], positions: int, memory: Memory
) -> None:
    """Raises ValueError where memory is too small to judge a path of so many layers."""
    reply = questions[0].reply
    for tokens, reads in sorted(set(prompt_buckets(questions)), reverse=True):
        if questions[0].scorer == "generate":
            new = reply.max_new_tokens
            choose_decode_sizes(config, tokens, memory, positions=positions, max_new_tokens=new)
        else:
            choose_sizes(config, tokens, reads, memory)


@contextlib.contextmanager
def grading(questions: Sequence[Encoded]) -> Iterator[Grader | None]:
    """Holds a grader where the questions need one."""
    if questions[0].scorer != "generate":
        yield None
        return
    with Grader() as grader:
        yield grader
