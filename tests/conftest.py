"""What all tests share: the environment, and tiny models converted once per worker."""

import os

os.environ |= {  # before anything imports jax or transformers
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # two workers share two cores
settings.register_profile("cola", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("cola")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same tiny model three times: as transformers wrote it, in transformers, and in ours."""

    folder: Path
    checkpoint: Path
    theirs: Any
    ours: Any


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Makes and converts the variant of that name, once."""
    import cola_jax
    from cola_jax.convert import convert
    from tests import oracle

    made: dict[str, Pair] = {}

    def get(variant: str) -> Pair:
        if variant not in made:
            folder = tmp_path_factory.mktemp(variant)
            theirs = oracle.make(variant, folder / "theirs")
            convert(str(folder / "theirs"), folder / "ours")
            ours = cola_jax.load(folder / "ours")
            made[variant] = Pair(folder / "theirs", folder / "ours", theirs, ours)
        return made[variant]

    return get


@pytest.fixture
def source(pair: Callable[[str], Pair], tmp_path: Path) -> Path:
    """A Hugging Face directory of its own, for tests that change it."""
    import shutil

    return Path(shutil.copytree(pair("llama-gqa").folder, tmp_path / "source"))
