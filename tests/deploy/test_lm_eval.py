"""The harness's model `cola` against its own model `hf` on the same weights, and its errors."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from cola_jax.cli import main, parse  # noqa: E402
from cola_jax.deploy.gen_kwargs import GenerationSettings, cut_text, read_gen_kwargs  # noqa: E402
from cola_jax.deploy.lm_eval import ColaLM  # noqa: E402
from cola_jax.deploy.model_args import quote_paths, read_arguments, split_arguments  # noqa: E402
from tests import tiny  # noqa: E402
from tests.oracle import rebuilt, with_cache  # noqa: E402

IDENTITY = (0, 1, 2, 3, 4)
PATHS = (IDENTITY, (0, 2, 3, 3, 1, 4))
TEXTS = [" ".join(tiny.WORDS[i : i + n]) for i, n in ((0, 3), (2, 1), (4, 9), (1, 5))]


def requests(kind, *arguments):
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def theirs(tiny_checkpoint):
    """The harness's model `hf` on the source of the checkpoint."""
    return make_theirs(tiny_checkpoint)


def make_theirs(tiny_checkpoint, **arguments):
    folder = tiny_checkpoint.parent / "theirs"
    return HFLM(
        pretrained=str(folder), dtype="float32", device="cpu", batch_size=2, **arguments
    )


@pytest.fixture(scope="module")
def ours(tiny_checkpoint):
    return ColaLM(checkpoint=str(tiny_checkpoint))


def test_x(ours, theirs):
    asked = requests("loglikelihood", *[(c, f" {w}") for c in TEXTS for w in tiny.WORDS[:4]])
    print(theirs.loglikelihood(asked))
    print(ours.loglikelihood(asked))
