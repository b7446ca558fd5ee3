"""The doors through which a user's files come, each as a function of bytes or of a JSON object."""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from etils import epath

from cola_jax import checkpoint
from cola_jax.convert.conversion import write_tokenizer
from cola_jax.convert.gguf import open_gguf
from cola_jax.convert.huggingface import open_directory
from cola_jax.tokenizer_trial import load_folder, try_tokenizer

VALUES = (
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 10**6, 10**18, -(2**63), 0.5, 1e300, -0.0, 1e-300),
    *("", "x", "silu", "llama", "a\nb", "x" * 5000, "\0", "../a", "{{ x", "[PAD]", "3", "é"),
    *([], [None], [1], ["a", "a"], [[]], {}, {"a": {}}, [0] * 99),
)
PIECES = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\0" * 8,
    b"\xff\xff\xff\x7f",
    b"\n",
    b"[",
    b"{",
    b'"',
    b"1e999",
)
LONGEST_MESSAGE = 1000


def mutate_bytes(whole: bytes, seed: int, most: int) -> bytes:
    """Changes a few places among the first `most` bytes: flips, cuts, inserts and copies."""
    draw = random.Random(seed)
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(max(1, min(most, len(data))))
        kind = draw.randrange(5)
        if kind == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            piece = draw.choice(PIECES)
            data[at : at + len(piece)] = piece
        elif kind == 2:
            data[at:at] = draw.choice(PIECES)
        elif kind == 3:
            other = draw.randrange(max(1, min(most, len(data))))
            data[at : at + 8] = data[other : other + 8]
        else:
            del data[at : at + draw.choice((1, 8, 100, len(data)))]
    return bytes(data)


def mutate_json(value: object, seed: int) -> object:
    """Changes a few places of a JSON value: replaces, removes, adds and doubles."""
    draw = random.Random(seed)
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        node = value
        while isinstance(node, dict | list) and node:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
                node = node[key]
                continue
            kind = draw.randrange(6)
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, dict):
                node[draw.choice(("extra", "auto_map", "type", ""))] = copy.deepcopy(
                    draw.choice(VALUES)
                )
            elif kind == 1:
                node += [copy.deepcopy(node[key]) for _ in range(draw.choice((1, 99)))]
            else:
                node[key] = copy.deepcopy(draw.choice(VALUES))
            break
    return value


def outcome(door: Callable[[], object]) -> str | None:
    """Returns the one clear line with which a door refuses, None where it opens.

    Anything else than such a line fails.
    """
    try:
        door()
        return None
    except (ValueError, OSError) as error:
        refusal = error
    trace, innermost = refusal.__traceback__, ""
    while trace:  # to the line that raised it
        innermost, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    line = str(refusal)
    assert "cola_jax" in innermost, f"raised by {innermost}: {line}"
    assert line, "no message"
    assert "\n" not in line, line
    assert len(line) < LONGEST_MESSAGE, line
    return line


class Doors:
    """A folder with a model of each kind, whose files are replaced by what a test gives."""

    def __init__(self, folder: Path, gguf: Path, theirs: Path, ours: Path):
        self.folder, self.gguf, self.theirs, self.ours = folder, gguf, theirs, ours
        self.kept = {
            file: file.read_bytes()
            for root in (theirs, ours)
            for file in root.rglob("*")
            if file.is_file()
        }

    def replaced(self, file: Path, data: bytes, door: Callable[[], object]) -> str | None:
        """Returns the outcome of a door with other bytes in a file, which is restored."""
        whole = self.kept[file]
        file.write_bytes(data)
        try:
            return outcome(door)
        finally:
            file.write_bytes(whole)

    def open_gguf(self, data: bytes) -> str | None:
        file = self.folder / "fuzzed.gguf"
        file.write_bytes(data)

        def door() -> None:
            source = open_gguf(file)
            target = self.folder / f"tokenizer-{os.urandom(4).hex()}"
            write_tokenizer(source, target)

        return outcome(door)

    def open_config(self, data: bytes) -> str | None:
        return self.replaced(self.theirs / "config.json", data, lambda: open_directory(self.theirs))

    def open_weights(self, data: bytes) -> str | None:
        return self.replaced(
            self.theirs / "model.safetensors", data, lambda: open_directory(self.theirs)
        )

    def open_tokenizer(self, name: str, data: bytes) -> str | None:
        folder = self.ours / "tokenizer"

        def door() -> None:
            try_tokenizer(load_folder(folder, "model"), "model", 10**6)

        return self.replaced(folder / name, data, door)

    def open_metadata(self, data: bytes) -> str | None:
        def door() -> None:
            metadata = checkpoint.read_metadata(self.ours)
            config = checkpoint.ModelConfig.from_json(metadata["config"])
            weights = epath.Path(self.ours) / checkpoint.WEIGHTS
            checkpoint.check_files(weights, metadata["files"])
            for name, shape in checkpoint.shapes(config).items():
                dtype = checkpoint.jnp.dtype(metadata["dtype"])
                checkpoint.check_stored(weights, name, shape, dtype)

        return self.replaced(self.ours / "cola.json", data, door)
