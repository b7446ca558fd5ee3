"""Mutated files at each door: it opens, or refuses with one clear line.

`COLA_FUZZ=5000 pytest -m slow tests/fuzz` tries that many examples at each door.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.convert.gguf_writer import add_byte_level, tiny_llama, write
from tests.fuzz.doors import Doors, mutate_bytes, mutate_json

MANY = int(os.environ.get("COLA_FUZZ", "2000"))
SEEDS = st.integers(0, 2**32)
CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())
FILES = {"tokenizer": "tokenizer.json", "settings": "tokenizer_config.json"}
NAMES = ("gguf", "config", "config text", "weights", "metadata", "tokenizer", "settings")


@pytest.fixture(scope="module")
def doors(made_once, tmp_path_factory):
    made = made_once("fuzz", tiny.make_checkpoint)
    folder = tmp_path_factory.mktemp("doors")
    for name in ("theirs", "ours"):
        shutil.copytree(made / name, folder / name)
    model = tiny_llama(vocab_size=300, num_hidden_layers=1)
    write(folder / "tiny.gguf", model, metadata=[add_byte_level])
    return Doors(folder, folder / "tiny.gguf", folder / "theirs", folder / "ours")


def try_door(doors, name, seed):
    """Opens a door with the mutation of a seed; returns the refusal, None where it opens."""
    if name == "gguf":
        return doors.open_gguf(mutate_bytes(doors.gguf.read_bytes(), seed, 9000))
    if name == "weights":
        whole = doors.kept[doors.theirs / "model.safetensors"]
        return doors.open_weights(mutate_bytes(whole, seed, 6000))
    if name.startswith("config"):
        whole = doors.kept[doors.theirs / "config.json"]
        if name == "config text":
            return doors.open_config(mutate_bytes(whole, seed, len(whole)))
        return doors.open_config(json.dumps(mutate_json(json.loads(whole), seed)).encode())
    if name == "metadata":
        whole = doors.kept[doors.ours / "cola.json"]
        return doors.open_metadata(json.dumps(mutate_json(json.loads(whole), seed)).encode())
    whole = doors.kept[doors.ours / "tokenizer" / FILES[name]]
    return doors.open_tokenizer(
        FILES[name], json.dumps(mutate_json(json.loads(whole), seed)).encode()
    )


def fuzz(doors, name, count):
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(SEEDS)
    def run(seed):
        try_door(doors, name, seed)

    run()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_door_opens_or_refuses_in_one_line(doors, name):
    fuzz(doors, name, 100)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_door_opens_or_refuses_many(doors, name):
    fuzz(doors, name, MANY)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "seed"), CORPUS)
def test_door_refuses_what_once_failed(doors, name, seed):
    try_door(doors, name, seed)
