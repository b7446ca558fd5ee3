"""Agreement: how often a path predicts the next token of the model's own greedy text.

The path reads that text at every position, so that a token that differs changes none after it. The
share of tokens that agree is the acceptance rate of self-speculative decoding, in which a path of
the model drafts tokens greedily and the whole model verifies them (Draft & Verify, arXiv
2309.08168; SWIFT, arXiv 2410.06916).
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cola_jax.engine.evaluator import succeeded
from cola_jax.engine.question_set import QuestionSet
from cola_jax.engine.work import Batch, Keep, Work
from cola_jax.execute.decoder import Decoder, Sampling, Stop, check_decode_memory
from cola_jax.execute.generate import collect
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Worker
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, identity
from cola_jax.prompts import PROMPT, Prompts, Readings
from cola_jax.question import Question
from cola_jax.runs.estimates import Estimate
from cola_jax.scoring.divergence import PromptEncoder, prompt_of, unanswered
from cola_jax.scoring.generation import OpenScorer
from cola_jax.scoring.scorer import Encoded, Scorer, check_length, hash_of
from cola_jax.scoring.statistics import Crossed, Mean
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

TOKENS = 64  # of the model's own text after a prompt, at most
LONGEST_DRAFT = 64  # tokens; a longer one pays where nearly all are accepted

ACCEPTANCE = "acceptance"  # estimate: the share of tokens that agree
BREAK_EVEN = "break-even"  # estimate: the acceptance above which drafts save time
OwnTexts = Mapping[str, tuple[int, ...]]  # the tokens of the model's own text, by id of a question


class Agreement(Scorer):
    """Scores the share of tokens of the model's own text that a path predicts.

    No path is right or wrong.

    The text is greedy and follows the prompt, and a path reads it at every position.
    """

    name = "agreement"

    def __init__(self, scorer: Scorer, texts: OwnTexts):
        """Take the scorer that writes the prompts, and the texts after them."""
        super().__init__(scorer.tokenizer, chat=scorer.chat, context=scorer.context)
        self.scorer = scorer
        self.texts = texts

    def encode(self, question: Question) -> Encoded:
        """Encode a question's prompt with the text after it; InputError as the scorer."""
        return append_text(self.scorer.encode(question), self.texts[question.id])

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Score the share of tokens that agree; the margin is the same."""
        targets = np.asarray(encoded.prompts.targets)
        score = (np.asarray(readings.token) == targets).mean(axis=1)
        answer = np.full(len(score), NO_ANSWER)
        finite = np.asarray(readings.finite)
        return Verdicts.of_scores(score[:, None], 0, finite, answer=answer, outside=np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder(PromptEncoder):
    """Encodes the prompts of questions, each with the model's own text after it."""

    texts: OwnTexts = dataclasses.field(kw_only=True)

    @property
    def scorer(self) -> Scorer:
        """The scorer of agreement."""
        return Agreement(self.scorers[0], self.texts)

    def read(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Put the texts after the prompts of encoded questions."""
        return [append_text(each, self.texts[each.question.id]) for each in encoded]


def append_text(encoded: Encoded, text: Sequence[int]) -> Encoded:
    """Put a text after a prompt, and read at the token before each of its own.

    Leaves out options and gold, so that nothing that is run or stored depends on them.
    """
    row = prompt_of(encoded)
    first = len(row.ids)
    targets = np.asarray(text, np.int32)
    # the last token is asked about, and no token follows it
    ids = np.concatenate([row.ids, targets[:-1]])
    positions = np.arange(len(targets) - 1) + int(row.positions[-1]) + 1
    plain = Prompts(
        ids=ids.astype(np.int32),
        positions=np.concatenate([row.positions, positions]).astype(np.int32),
        branch=np.full(len(ids), PROMPT, np.int32),
        read=np.arange(first - 1, first - 1 + len(targets), dtype=np.int32),
        targets=targets,
        embeddings=row.embeddings,
        places=row.places,
    )
    return Encoded(
        unanswered(encoded.question),
        plain,
        np.zeros_like(targets),
        hash_of(f"{encoded.prompt_hash} with {targets.tolist()}"),
        prompt=encoded.prompt,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GreedyTexts(Work):
    """A function from a batch to the model's own greedy text after each of its prompts."""

    stop: Stop
    tokens: int

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> list[tuple[int, ...]]:
        prompts = Prompts.stack([prompt_of(x) for x in self.encode(worker, batch.questions)])
        layers = worker.config.num_layers
        check_decode_memory(worker.config, prompts, worker.memory, layers, self.tokens)
        paths = pad_paths(identity(layers), len(batch.questions), layers)
        decoder = Decoder(
            worker,
            prompts,
            Workload(1, layers),
            max_new_tokens=self.tokens,
            stop=self.stop,
            sampling=Sampling(temperature=0.0, seed=0),
            names=[question.id for question in batch.questions],
        )
        with contextlib.closing(decoder):
            texts = collect(decoder(paths), paths, self.tokens)
        lengths = zip(texts.tokens[:, 0], texts.length[:, 0], strict=True)
        return [tuple(tokens[:length].tolist()) for tokens, length in lengths]


def own_texts(session: "Session", asked: QuestionSet, tokens: int = TOKENS) -> dict[str, tuple]:
    """Decode the model's own greedy text after the prompt of each question, up to its end.

    The end is that of an answer to an open question, and elsewhere a stop token of the model.
    Raises InputError where a prompt and so many tokens exceed the context.
    """
    scorer = asked.scorer
    for each in asked.sample:
        check_length(dataclasses.replace(each, prompts=prompt_of(each)), scorer.context, tokens)
    stop = scorer.stop if isinstance(scorer, OpenScorer) else Stop(session.model.stop_tokens())
    work = GreedyTexts(model=session.model, encoder=asked.encoder, stop=stop, tokens=tokens)
    texts: dict[str, tuple] = {}
    capacity = session.engine.capacity(session.model, len(asked))
    for batch, found, _ in session.engine.map(work, asked.batches(range(len(asked)), capacity)):
        ids = [question.id for question in batch.questions]
        texts |= dict(zip(ids, succeeded(batch, found), strict=True))
    return texts


def agreement_session(session: "Session", tokens: int = TOKENS) -> "Session":
    """Return a session of the same prompts that scores agreement with the model's own text."""
    asked = session.asked
    encoder = TextEncoder(asked.encoder.scorers, texts=own_texts(session, asked, tokens))
    settings = session.settings | {"scorer": encoder.scorer.name, "text_tokens": tokens}
    asked = QuestionSet.of(asked.questions, encoder, session.model)
    return dataclasses.replace(session, asked=asked, settings=settings)


def agreements(verdicts: Verdicts) -> np.ndarray:
    """Return the shares of tokens that agree of the evaluations that `Agreement` scored.

    A path that is not finite agrees nowhere.
    """
    return np.where(verdicts.finite, verdicts.margin, 0.0)


def acceptance_estimate(name: str, agreed: np.ndarray, group: str) -> Estimate:
    """Return the mean share of tokens that agree, of [n, K] of n questions in K prompts."""
    mean = Mean.of(agreed[:, 0]) if agreed.shape[1] == 1 else Crossed.of(agreed)
    low, high = mean.interval
    return Estimate(name, group, mean.value, low=low, high=high, n=len(agreed))


def break_even_estimate(path: LayerPath, costs: LayerCosts, group: str) -> Estimate:
    """Return the acceptance above which drafts along a path save time; see `speedup`."""
    return Estimate(BREAK_EVEN, group, costs.of(path) / costs.total)


def speedup(acceptance: float, cost: float, draft: int = 1) -> float:
    """Return the expected speed of self-speculative decoding, 1 as the model alone.

    (1 - a^(n+1)) / ((1 - a) (n c + 1)), for drafts of n tokens that each cost a share c of what the
    model takes, and are accepted with probability a, independently (Leviathan et al., arXiv
    2211.17192, theorem 3.8). For n = 1 that is (1 + a) / (1 + c), above 1 if and only if a > c; and
    where a <= c, no n pays. Verifying n + 1 tokens is taken to cost what one token does.
    """
    accepted = sum(acceptance**n for n in range(draft + 1))
    return accepted / (draft * cost + 1)


def best_draft(acceptance: float, cost: float) -> tuple[int, float]:
    """Return the draft length of the highest expected speed, and that speed; 0 and 1 for none."""
    if math.isnan(acceptance):
        return 0, math.nan
    speeds = {draft: speedup(acceptance, cost, draft) for draft in range(LONGEST_DRAFT + 1)}
    best = max(speeds, key=lambda draft: (speeds[draft], -draft))
    return best, speeds[best]
