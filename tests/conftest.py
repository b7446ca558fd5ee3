"""What all tests share: the environment, and tiny models converted once per run."""

import dataclasses
import functools
import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from hypothesis import settings

from tests import environment

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not WORKER:  # workers inherit what the first process sets
    environment.set_variables(cache=tempfile.mkdtemp(prefix="cola-jax-programs-"))
environment.share_programs()

torch.set_num_threads(1)  # two workers share two cores
settings.register_profile("cola", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("cola")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what the imports made is there to stay: it need not be visited again


def pytest_unconfigure() -> None:
    if not WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Calls `make(folder)` for the folder of that name in one of the workers, and returns it."""
    run = tmp_path_factory.getbasetemp()
    shared = (run.parent if WORKER else run) / "made"
    shared.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with filelock.FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                part = shared / f"{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                make(part)
                part.rename(folder)
        return folder

    return get


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same tiny model three times: as transformers wrote it, in transformers, and in ours."""

    variant: str
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "theirs"

    @property
    def checkpoint(self) -> Path:
        return self.root / "ours"

    @functools.cached_property
    def theirs(self) -> Any:
        from tests import oracle

        family, fields = oracle.VARIANTS[self.variant]
        return oracle.random_model(family, **fields)

    @functools.cached_property
    def ours(self) -> Any:
        import cola_jax

        return cola_jax.load(self.checkpoint)


@pytest.fixture(scope="session")
def pair(made_once: Callable[..., Path]) -> Callable[[str], Pair]:
    """Makes and converts the variant of that name, once per run."""
    from cola_jax.convert import convert
    from tests import oracle

    def make(variant: str, root: Path) -> None:
        oracle.make(variant, root / "theirs")
        convert(str(root / "theirs"), root / "ours")

    @functools.cache
    def get(variant: str) -> Pair:
        return Pair(variant, made_once(variant, functools.partial(make, variant)))

    return get


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once: Callable[..., Path]) -> Path:
    """The checkpoint of `tiny.make_checkpoint`, made once per run; `theirs` lies beside it."""
    from tests import tiny

    return made_once("tiny", tiny.make_checkpoint) / "ours"


@pytest.fixture
def source(pair: Callable[[str], Pair], tmp_path: Path) -> Path:
    """A Hugging Face directory of its own, for tests that change it."""
    return Path(shutil.copytree(pair("llama-gqa").folder, tmp_path / "source"))
