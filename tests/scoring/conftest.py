"""Fixtures of the scorers' tests: one tiny model, its own tokenizer, and what the model decodes."""

from typing import NamedTuple

import numpy as np
import pytest

import cola_jax
from cola_jax.execute.decoder import STOPPED
from cola_jax.execute.inputs import pad_paths
from cola_jax.path import STOP, identity, random_paths
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.scoring import Exact
from cola_jax.scoring.scorer import encode_prompt
from tests import tiny
from tests.tokenizers import BARE, STOPS, GreedyTokenizer, letter_tokenizer, question


@pytest.fixture(scope="session")
def model(tiny_checkpoint):
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(scope="session")
def words(tiny_checkpoint):
    return cola_jax.load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="session")
def letters(model) -> GreedyTokenizer:
    """A tokenizer in which any tokens can be written as an answer."""
    return letter_tokenizer(model.config.vocab_size)


class Decoded(NamedTuple):
    """What the model decodes after random prompts, and questions that ask for it."""

    texts: list[str]  # the prompts
    listed: list[tuple[int, ...]]  # paths, the same for all prompts
    out: cola_jax.Generated
    paths: np.ndarray  # [B, C, P], where the last of some questions is none
    questions: list[Question]  # one path answers right, another with the decoy


@pytest.fixture(scope="session")
def decoded(model, letters) -> Decoded:
    count, each = 8, 20
    generator = np.random.default_rng(7)
    texts = [letters.decode(generator.integers(80, len(letters), 5)) for _ in range(count)]
    listed = [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, each - 1, seed=1)]
    scorer = Exact(letters, BARE, stop_tokens=STOPS)
    prompts = Prompts.stack([encode_prompt(question(t), letters, t).prompts for t in texts])
    limit = BARE.max_new_tokens
    out = cola_jax.generate(
        model, prompts, [listed] * count, max_new_tokens=limit, stop=scorer.stop
    )
    paths = pad_paths([listed] * count, count, tiny.LAYERS)
    questions = []
    for b, text in enumerate(texts):
        paths[b, each - b % 3 :] = STOP
        ended = (out.finish[b] == STOPPED) & (out.length[b] > 1) & (paths[b, :, 0] != STOP)
        answers = {
            letters.decode(out.tokens[b, c, : out.length[b, c] - 1]) for c in np.flatnonzero(ended)
        }
        answers = [*sorted(answers), letters.texts[90 + b], letters.texts[100 + b]]
        questions.append(question(text, *answers[:2]))
    return Decoded(texts, listed, out, paths, questions)
