"""What all tests share: the environment, and tiny models converted once per run."""

import functools
import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
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
    """Spare the collector what imports have made: it looks at a million objects otherwise."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    if not WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def drop_programs() -> Iterator[None]:
    """Drop the programs of a module where nothing tells how many there are, as on macOS."""
    yield
    if not environment.MAPPINGS.exists():
        environment.drop_programs()


@pytest.fixture(autouse=True)
def drop_many_programs() -> Iterator[None]:
    """Drop the programs of the tests so far once they are many."""
    yield
    environment.drop_many_programs()


@pytest.fixture(autouse=True)
def ledger(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledger of tries of a test, and of the processes that it starts: no other test's."""
    file = Path(os.environ["COLA_LEDGER"]).with_name(f"{uuid.uuid4().hex}.jsonl")
    monkeypatch.setenv("COLA_LEDGER", str(file))
    return file


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes the folder of a name in one of the workers, and returns it."""
    run = tmp_path_factory.getbasetemp()
    shared = (run.parent if WORKER else run) / "made"
    shared.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with filelock.FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # an attempt that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def pair(made_once: Callable[..., Path]) -> Callable[[str], Any]:
    """Return a function that returns the `oracle.Pair` of a variant, whose files are made once."""
    from tests import oracle  # not above: jaxtyping has to see the imports of cola_jax

    return functools.cache(lambda variant: oracle.Pair(variant, made_once))


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once: Callable[..., Path]) -> Path:
    """The checkpoint of `tiny.make_checkpoint`, made once per run; `theirs` lies beside it."""
    from tests import tiny

    return made_once("tiny", tiny.make_checkpoint) / "ours"


@pytest.fixture
def source(pair: Callable[[str], Any], tmp_path: Path) -> Path:
    """A Hugging Face directory of its own, for tests that change it."""
    return Path(shutil.copytree(pair("llama-gqa").folder, tmp_path / "source"))


@pytest.fixture(scope="session", params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A `buckets.Bucket`, for slow tests."""
    from tests import buckets

    with buckets.serve(request.param) as bucket:
        yield bucket


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Iterator[Any]:
    """A `hub_server.Hub` in place of the Hugging Face Hub, a token for it, and an empty cache."""
    from huggingface_hub import constants

    from tests.formats import hub_server

    with hub_server.serve() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub


@pytest.fixture(scope="session")
def seeing(made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """Return a function that makes a model of `pictures.MODELS`, in `theirs` and in `ours`."""
    pytest.importorskip("PIL")
    from tests import pictures

    return lambda name: made_once(name, functools.partial(pictures.make, name))
