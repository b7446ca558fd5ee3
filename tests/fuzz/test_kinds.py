"""Mutated files of each kind: a command reads them, or refuses them with one clear line.

`COLA_FUZZ=5000 pytest -m slow tests/fuzz` tries that many examples of each kind.
"""

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import MODULES

MANY = int(os.environ.get("COLA_FUZZ", "3000"))
CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())


@pytest.fixture(scope="module")
def kind(made_once, tmp_path_factory):
    """Returns a kind by its name; the files of a module are made once, and copied to be changed."""

    @functools.cache
    def kinds(module):
        made = made_once(module.__name__, module.make)
        return module.kinds(shutil.copytree(made, tmp_path_factory.mktemp("fuzz") / "files"))

    return lambda name: kinds(MODULES[name])[name]


def fuzz(kind, count):
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def run(seed):
        kind.try_seed(seed)

    run()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MODULES)
def test_file_is_read_or_refused_in_one_line(kind, name):
    fuzz(kind(name), kind(name).quick)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MODULES)
def test_file_is_read_or_refused_many(kind, name):
    fuzz(kind(name), MANY)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "seed"), CORPUS)
def test_file_that_once_failed_is_refused(kind, name, seed):
    kind(name).try_seed(seed)
