"""Files of a model: GGUF, Hugging Face and our own checkpoint with its tokenizer."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from cola_jax import checkpoint
from cola_jax.formats.conversion import try_tokenizer, write_tokenizer
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.huggingface import open_directory
from tests import oracle, tiny
from tests.formats.gguf_writer import add_byte_level, tiny_llama, write
from tests.fuzz.kind import Kind
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_json_text

NAMES = (
    *("gguf", "config", "config text", "weights", "metadata", "tokenizer", "settings"),
    "mixture config",
)


def make(folder: Path) -> None:
    """Makes a model of each kind."""
    tiny.make_checkpoint(folder)
    model = tiny_llama(vocab_size=300, num_hidden_layers=1)
    write(folder / "tiny.gguf", model, metadata=[add_byte_level])
    oracle.make("qwen3-moe", folder / "mixture")


def kinds(folder: Path) -> dict[str, Kind]:
    """Returns the kinds of files of the models that `make` made."""
    theirs, ours = folder / "theirs", folder / "ours"
    gguf = (folder / "tiny.gguf").read_bytes()
    return {
        "gguf": Kind(
            lambda seed: mutate_bytes(gguf, seed, 9000), lambda data: read_gguf(folder, data)
        ),
        "config": of_json(theirs / "config.json", lambda: open_directory(theirs)),
        "config text": of_bytes(theirs / "config.json", lambda: open_directory(theirs)),
        "mixture config": of_json(
            folder / "mixture" / "config.json", lambda: open_directory(folder / "mixture")
        ),
        "weights": of_bytes(theirs / "model.safetensors", lambda: open_directory(theirs), 6000),
        "metadata": of_json(ours / "cola.json", lambda: read_checkpoint(ours)),
        "tokenizer": of_json(
            ours / "tokenizer" / "tokenizer.json", lambda: read_tokenizer(ours / "tokenizer")
        ),
        "settings": of_json(
            ours / "tokenizer" / "tokenizer_config.json", lambda: read_tokenizer(ours / "tokenizer")
        ),
    }


def of_bytes(file: Path, read: Callable[[], object], most: int | None = None) -> Kind:
    """Makes the kind of a file whose bytes are mutated."""
    whole = file.read_bytes()
    return Kind(lambda seed: mutate_bytes(whole, seed, most), replacing(file, read))


def of_json(file: Path, read: Callable[[], object]) -> Kind:
    """Makes the kind of a file whose values are mutated."""
    value = json.loads(file.read_bytes())
    return Kind(lambda seed: json.dumps(mutate_json(value, seed)).encode(), replacing(file, read))


def of_json_text(file: Path, read: Callable[[], object], names: str = "") -> Kind:
    """Makes the kind of a file whose values are mutated, or its bytes."""
    value = json.loads(file.read_bytes())
    return Kind(lambda seed: mutate_json_text(value, seed), replacing(file, read), names)


def replacing(file: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Makes a function that reads with other bytes in a file, which is then restored."""
    whole = file.read_bytes()

    def replace(data: bytes) -> None:
        file.write_bytes(data)
        try:
            read()
        finally:
            file.write_bytes(whole)

    return replace


def read_gguf(folder: Path, data: bytes) -> None:
    file = folder / "fuzzed.gguf"
    file.write_bytes(data)
    source = open_gguf(file)
    write_tokenizer(source, folder / f"tokenizer-{os.urandom(4).hex()}")


def read_tokenizer(folder: Path) -> None:
    try_tokenizer(checkpoint.load_folder(folder, "model"), "model", 10**6)


def read_checkpoint(folder: Path) -> None:
    checkpoint.load(folder)
