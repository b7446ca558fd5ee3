"""`Scorer`: turns questions into prompts, and the readings of the model into verdicts."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, shown
from cola_jax.execute.inputs import decode_tokens, pad_paths
from cola_jax.execute.memory import Memory
from cola_jax.execute.plan import Workload
from cola_jax.execute.run_paths import PathEvaluator, choose_path_sizes
from cola_jax.execute.worker import Worker
from cola_jax.path import STOP, LayerPath
from cola_jax.prompts import PROMPT, Prompts, Readings
from cola_jax.question import Question, sha256
from cola_jax.scoring.answer_key import AnswerKey, Mark
from cola_jax.scoring.verdicts import Completion, Verdicts

# Takes paths [B, C, P], padded with STOP; returns verdicts [B, C]. That of a scorer that decodes
# also takes a function, which is given verdicts [n] of entries [2, n] of paths as they are known.
Evaluate = Callable[..., Verdicts]

# Questions shown with their answers before each, or a function from a question to those before it
ShotSource = Sequence[Question] | Callable[[Question], Sequence[Question]]


def shots_of(shots: ShotSource, question: Question) -> Sequence[Question]:
    """Return the questions that are shown before a question."""
    return shots(question) if callable(shots) else shots


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A question as a token row, and the option that each read belongs to."""

    question: Question
    prompts: Prompts  # one row: fields [T] and [Q]
    option: np.ndarray  # [Q]
    prompt_hash: str  # of the prompt's text
    # the tokens of the prompt as text, special tokens included; None where a scorer gives none
    prompt: str | None = dataclasses.field(default=None, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """The number of tokens run: the prompt and all packed continuations."""
        return len(self.prompts.ids)


class Scorer(abc.ABC):
    """Scores paths of questions; a scorer of your own has a name, `encode` and `verdicts`."""

    name: ClassVar[str]
    open: ClassVar[bool] = False  # for questions that are asked without offering options
    decodes: ClassVar[bool] = False  # decodes completions instead of reading the model
    formats: ClassVar[tuple[str, ...]] = ("plain",)  # prompts of multiple choice
    lists_options: ClassVar[bool] = False  # the prompt shows the options, in their order
    # scores are natural log-likelihoods, or leads of one over another; others have no unit
    log_likelihoods: ClassVar[bool] = False
    answer_logprobs: ClassVar[bool] = False  # verdicts have those of whole answers
    divergence: ClassVar[bool] = False  # readings have the divergence from the identity path
    # marks readings by `answer_key`, also on a device; None where `verdicts` alone can
    mark: ClassVar[Mark | None] = None
    max_new_tokens: int = 0  # decoded after a prompt, at most

    def __init_subclass__(cls):
        """Take a class with scores of its own for one without a unit, unless it says otherwise.

        Nor can an answer key tell its verdicts.
        """
        own = vars(cls)
        is_own = "scores" in own or "verdicts" in own
        if (is_own or "divisors" in own) and "log_likelihoods" not in own:
            cls.log_likelihoods = False
        if is_own and "mark" not in own:
            cls.mark = None

    def __init__(self, tokenizer: Any, *, chat: bool = False, context: int | None = None):
        """Take the model's tokenizer.

        Args:
          chat: put prompts through the tokenizer's chat template; InputError where it has none.
          context: the longest prompt allowed, in tokens.
        """
        if chat and not tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template: use the plain prompt (drop --chat)."
            )
        self.tokenizer = tokenizer
        self.chat = chat
        self.context = context

    @abc.abstractmethod
    def encode(self, question: Question) -> Encoded:
        """Encode a question: its prompt and continuations, and the positions to read.

        Raises InputError for a question that cannot be asked so, or longer than the context.
        """

    def check(self, question: Question) -> None:  # noqa: B027 - a scorer of your own need not
        """Raise InputError for a question that cannot be asked so, as far as its texts tell."""

    @abc.abstractmethod
    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Turn the readings [C, Q] along C paths of an encoded question into verdicts [C]."""

    def answer_key(self, encoded: Encoded) -> AnswerKey:
        """Return the key by which `mark` marks the readings of a question."""
        raise NotImplementedError(f"{self.name} has no answer key")

    @contextlib.contextmanager
    def evaluator(
        self, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ) -> Iterator[Evaluate]:
        """Bind the scorer to a batch of questions on a worker, best of similar lengths.

        Returns a context manager of a function from paths [B, C, P] to Verdicts [B, C].
        """
        run = PathEvaluator(worker, prompts_of(batch), workload, divergence=self.divergence)
        with contextlib.closing(run):
            yield lambda paths: score_readings(self, batch, run(paths), paths)

    def confirm(
        self,
        worker: Worker,
        batch: Sequence[Encoded],
        workload: Workload,
        paths: Sequence[LayerPath | None],
        completions: Sequence[Completion | None],
    ) -> list[bool | None]:
        """Run at most one path a question once more in float32, all questions at once.

        Args:
          workload: of the batch before; with the same, a CPU compiles nothing.
          completions: decoded along the paths before; None where nothing was.

        Returns:
          Whether each path is right; None without a path.
        """
        self.check_confirmable()
        present = [b for b, path in enumerate(paths) if path is not None]
        if not present:
            return [None] * len(paths)
        # all questions, so that the shapes are those of the batch, unless the prompts are others
        groups: list[Sequence[int]] = [range(len(paths))]
        if self.decodes:  # a batch has many questions
            size = worker.memory.limits.questions
            groups = [present[first : first + size] for first in range(0, len(present), size)]
        held: dict[int, bool] = {}
        for chosen in groups:
            rows = [self.reread(batch[b], completions[b]) for b in chosen]
            right = self.confirm_rows(worker, rows, workload, [paths[b] for b in chosen])
            held |= dict(zip(chosen, right, strict=True))
        return [None if path is None else held[b] for b, path in enumerate(paths)]

    def confirm_rows(
        self,
        worker: Worker,
        rows: Sequence[Encoded],
        workload: Workload,
        paths: Sequence[LayerPath | None],
    ) -> list[bool]:
        """Return whether a path of each question is right in float32; False without a path."""
        listed = [[] if path is None else [path] for path in paths]
        padded = pad_paths(listed, len(rows), worker.config.num_layers)
        # a CPU multiplies in full precision; a setting would compile all programs again
        precision = None if worker.device.platform == "cpu" else "highest"
        with jax.default_matmul_precision(precision):
            workload = workload._replace(wave=1, evaluations=0)
            run = PathEvaluator(worker.in_float32(), prompts_of(rows), workload)
            with contextlib.closing(run):
                return score_readings(self, rows, run(padded), padded).verdict[:, 0].tolist()

    def check_log_likelihoods(self, purpose: str) -> None:
        """Raise InputError where the scores are not the log-likelihoods of options."""
        if self.open or not self.log_likelihoods:
            raise InputError(
                f"{purpose} needs the natural log-likelihood of each option, which the scores of "
                f"the scorer {self.name!r} are not: use `options` or `letter`, or measure the "
                "accuracy."
            )

    def check_confirmable(self) -> None:  # noqa: B027 - most verdicts are
        """Raise InputError where a verdict cannot be confirmed by running its path once more."""

    def reread(self, encoded: Encoded, completion: Completion | None) -> Encoded:
        """Make the prompt that confirms a verdict, by default the same."""
        return encoded

    def check_memory(
        self, config: ModelConfig, memory: Memory, batch: Sequence[Encoded], positions: int
    ) -> None:
        """Raise InputError where memory is too small to evaluate a path of `positions` layers."""
        choose_path_sizes(config, prompts_of(batch), memory)

    def record(self) -> dict[str, Any]:
        """Describe the prompts in JSON values; runs with other settings are kept apart."""
        return {}

    def __enter__(self) -> "Scorer":
        """Start the resources of evaluation, such as processes."""
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - most scorers need nothing
        """End them."""


def score_readings(
    scorer: Scorer, batch: Sequence[Encoded], readings: Readings, paths: np.ndarray
) -> Verdicts:
    """Score readings [B, C, Q] of every entry of paths [B, C, P] that is a path."""
    out = Verdicts.empty(paths.shape[:2], most_options(batch))
    for b, encoded in enumerate(batch):
        present = np.flatnonzero(paths[b, :, 0] != STOP)
        at = b, present, slice(len(encoded.option))
        row = Readings(
            logprob=readings.logprob[at],
            token=readings.token[at],
            rival=readings.rival[at],
            finite=readings.finite[b, present],
            divergence=None if readings.divergence is None else readings.divergence[at],
        )
        out.put((b, present), scorer.verdicts(row, encoded))
    out.log_likelihoods[:] = scorer.log_likelihoods
    return out


def in_float64(readings: Readings) -> Readings:
    """Return readings as NumPy, with log-probabilities in float64, to be summed."""
    return Readings(
        logprob=np.asarray(readings.logprob).astype(np.float64),
        token=np.asarray(readings.token),
        rival=np.asarray(readings.rival),
        finite=np.asarray(readings.finite),
    )


def prompts_of(batch: Sequence[Encoded]) -> Prompts:
    """Stack the prompts of a batch."""
    return Prompts.stack([encoded.prompts for encoded in batch])


def most_options(batch: Sequence[Encoded]) -> int:
    """Return the most options, decoys included, that a question of a batch has."""
    return max(len(encoded.question.options) for encoded in batch)


def encode_answers(
    question: Question,
    tokenizer: Any,
    prompt: str,
    answers: Sequence[str],
    *,
    special: bool = True,
) -> Encoded:
    """Encode a prompt with each answer packed after it, one option each.

    Tokens are split as in lm-evaluation-harness: those of the prompt alone, and those that each
    whole text adds. `special` adds the tokenizer's special tokens, which a chat template writes
    itself. Raises InputError where the tokenizer ends the prompt, and for an answer that adds no
    token.
    """
    ids = tokenize_prompt(tokenizer, prompt, special)
    continuations = []
    for answer in answers:
        tokens = tokenizer(prompt + answer, add_special_tokens=special).input_ids[len(ids) :]
        if not tokens:
            raise InputError(
                f"question {question.id}: the option {shown(answer)} adds no token to its prompt, "
                "so it cannot be scored."
            )
        continuations.append(tokens)
    row, option = pack(ids, continuations)
    text = decode_tokens(tokenizer, ids)
    return Encoded(question, row, option, hash_of(prompt), prompt=text)


def encode_prompt(
    question: Question, tokenizer: Any, prompt: str, *, special: bool = True
) -> Encoded:
    """Encode a prompt alone, to decode after it."""
    ids = tokenize_prompt(tokenizer, prompt, special)
    row, option = pack(ids, [])
    row = row.replace(read=None, targets=None)
    text = decode_tokens(tokenizer, ids)
    return Encoded(question, row, option, hash_of(prompt), prompt=text)


def tokenize_prompt(tokenizer: Any, prompt: str, special: bool) -> list[int]:
    """Tokenize a prompt; InputError where the tokenizer ends it with its EOS token."""
    ids = tokenizer(prompt, add_special_tokens=special).input_ids
    if special and ids and ids[-1] == tokenizer.eos_token_id:
        raise InputError(
            "the tokenizer ends every text with its EOS token, after which no answer can be "
            "scored: turn add_eos_token off in the checkpoint's tokenizer_config.json."
        )
    return ids


def pack(
    prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> tuple[Prompts, np.ndarray]:
    """Pack continuations after a prompt, and read at the token before each of their tokens.

    The last token of a continuation is left out, since no token of it follows. Continuations that
    begin alike are in the same state there, which is read once, at the tokens of the first of them.
    Returns the row [T], and the continuation [Q] of each read position.
    """
    ids = list(prompt)
    positions = list(range(len(prompt)))
    branch = [PROMPT] * len(prompt)
    read = []
    targets = []
    option = []
    place: dict[tuple[int, ...], int] = {(): len(prompt) - 1}  # read after these tokens
    for j, tokens in enumerate(continuations):
        first = len(ids)
        ids += tokens[:-1]
        positions += range(len(prompt), len(prompt) + len(tokens) - 1)
        branch += [j + 1] * (len(tokens) - 1)
        read += [place.setdefault(tuple(tokens[:n]), first + n - 1) for n in range(len(tokens))]
        targets += tokens
        option += [j] * len(tokens)
    fields = (ids, positions, branch, read, targets)
    row = Prompts(*(np.asarray(values, np.int32) for values in fields))
    return row, np.asarray(option, np.int32)


def check_length(encoded: Encoded, context: int | None, more: int = 0) -> None:
    """Raise InputError where a prompt and `more` new tokens exceed the context."""
    longest = int(np.asarray(encoded.prompts.positions).max()) + 1
    if context is not None and longest + more > context:
        new = f" and {more} new ones" if more else ""
        raise InputError(
            f"question {encoded.question.id} has {longest} tokens{new}, but the model's context is "
            f"{context}: leave it out, use fewer shots, or a model with a longer context."
        )


def hash_of(text: str) -> str:
    """Return the digest by which a prompt's text is recorded."""
    return sha256(text).hex()[:16]
