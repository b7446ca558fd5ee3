"""The model that most tests of the executors run, and questions for it."""

import pytest

from cola_jax.prompts import Prompts
from tests.execute import batches


@pytest.fixture(scope="session")
def model(pair):
    return pair("qwen2-window").ours


@pytest.fixture(scope="session")
def questions():
    rows = [batches.question(*sizes, seed) for seed, sizes in enumerate(batches.QUESTIONS)]
    return Prompts.stack(rows)
