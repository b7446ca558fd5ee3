"""Fields of GGUF files: claims, types, tokens and tensors that contradict each other."""

import copy
import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from cola_jax.formats.conversion import write_tokenizer
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.gguf_header import ARRAY, SCALARS, STRING
from cola_jax.formats.table import stack
from tests.formats import gguf_writer
from tests.formats.gguf_bytes import array, field, gguf, item, tensor
from tests.formats.gguf_writer import GEMMA_KEYS, add_byte_level, add_sentencepiece
from tests.fuzz.kind import Kind

NAMES = ("gguf fields",)
FLOATS, BOOL = (6, 12), 7  # types
COUNTS = (0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
NUMBERS = (0, 1, -1, 3, 7, 32, 255, 2**31, 2**62, 0.5, -1.5, 1e38, float("nan"), float("inf"))
TEXTS = (
    "",
    "llama",
    "gemma3",
    "qwen2",
    "mixtral",
    "gpt2",
    "bert",
    "t5",
    "a b",
    "a\nb",
    "{{ x",
    "é",
)
TOKENS = ("", " ", "a", "a b", "Ġ", "<0x00>", "<s>", "\ud800", "x" * 1000, "\0", "▁", "\n")
EXPERTS = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 16}


@dataclasses.dataclass
class Value:
    """The value of a key: of a type, and of entries where it is an array."""

    key: str
    kind: int
    value: Any
    length: int | None = None  # that is claimed of an array; its own when None

    def packed(self) -> bytes:
        name = self.key.encode()
        if self.kind != ARRAY:
            return field(name, self.kind, item(self.kind, self.value))
        kind, entries = self.value
        length = len(entries) if self.length is None else self.length
        return field(name, ARRAY, array(kind, length, b"".join(item(kind, x) for x in entries)))


@dataclasses.dataclass
class Info:
    """Where a tensor lies, and what it is; the innermost axis is first."""

    name: str
    shape: list[int]
    kind: int
    offset: int

    def packed(self) -> bytes:
        return tensor(self.name.encode(), tuple(self.shape), self.kind, self.offset)


@dataclasses.dataclass
class File:
    """A GGUF file by its fields."""

    fields: list[Value]
    tensors: list[Info]
    data: bytes
    version: int = 3
    counts: tuple[int, int] | None = None

    def packed(self) -> bytes:
        parts = [[one.packed() for one in some] for some in (self.fields, self.tensors)]
        return gguf(*parts, self.data, self.version, self.counts)


def make(folder: Path) -> None:
    """Makes a file of each architecture and kind of tokenizer."""
    llama = gguf_writer.tiny_llama(vocab_size=300, num_hidden_layers=1)
    gguf_writer.write(folder / "bytes.gguf", llama, metadata=[add_byte_level])
    gguf_writer.write(folder / "pieces.gguf", llama, metadata=[add_sentencepiece])
    gemma = gguf_writer.tiny_gemma(vocab_size=300)
    gguf_writer.write(
        folder / "gemma.gguf",
        gemma,
        keys=GEMMA_KEYS,
        metadata=[add_sentencepiece],
        architecture="gemma3",
    )


def kinds(folder: Path) -> dict[str, Kind]:
    """Returns the kind of files whose fields are mutated."""
    files = [read(folder / f"{name}.gguf") for name in ("bytes", "pieces", "gemma")]
    target = folder / "fuzzed.gguf"

    def convert(file: File) -> None:
        target.write_bytes(file.packed())
        source = open_gguf(target)
        write_tokenizer(source, folder / f"tokenizer-{os.urandom(4).hex()}")
        dict(stack(source.tensors, source.rows, source.config, source.dtype))

    return {"gguf fields": Kind(lambda seed: mutate(files, seed), convert, "fuzzed.gguf")}


def read(file: Path) -> File:
    """Reads a sound file into its fields."""
    reader = GGUFReader(file)
    fields = []
    for key, one in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        kinds, value = [int(kind) for kind in one.types], one.contents()
        fields.append(Value(key, kinds[0], (kinds[1], value) if kinds[0] == ARRAY else value))
    start = min(one.data_offset for one in reader.tensors)
    tensors = [
        Info(one.name, one.shape.tolist(), int(one.tensor_type), one.data_offset - start)
        for one in reader.tensors
    ]
    return File(fields, tensors, file.read_bytes()[start:])


def mutate(files: list[File], seed: int) -> File:
    """Changes a few fields of one of the files."""
    draw = random.Random(seed)
    file = copy.deepcopy(draw.choice(files))
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice(CHANGES)(file, draw)
    return file


def retype(file: File, draw: random.Random) -> None:
    """Gives a key a value of any type."""
    one = draw.choice(file.fields)
    one.kind = draw.choice((*SCALARS, STRING, ARRAY))
    if one.kind == ARRAY:
        kind = draw.choice((*SCALARS, STRING))
        one.value = kind, [scalar(kind, draw) for _ in range(draw.choice((0, 1, 3, 300)))]
    else:
        one.value = scalar(one.kind, draw)


def scalar(kind: int, draw: random.Random) -> Any:
    """Draws a value that a type can hold."""
    if kind == STRING:
        return draw.choice(TEXTS)
    if kind == BOOL:
        return draw.random() < 0.5
    value = draw.choice(NUMBERS)
    if kind in FLOATS:
        return value
    bits = 8 * len(item(kind, 0))
    value = int(value) % 2**bits if value == value and abs(value) < 1e30 else 2**bits - 1
    signed = SCALARS[kind].islower()
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value


def revalue(file: File, draw: random.Random) -> None:
    """Gives a key another value of its type."""
    one = draw.choice(file.fields)
    if one.kind != ARRAY:
        one.value = scalar(one.kind, draw)


def rekey(file: File, draw: random.Random) -> None:
    """Leaves a key out, doubles it, or calls it otherwise."""
    one, way = draw.choice(file.fields), draw.randrange(4)
    if way == 0:
        file.fields.remove(one)
    elif way == 1:
        file.fields.insert(draw.randrange(len(file.fields)), copy.deepcopy(one))
    elif way == 2:
        one.key = draw.choice(("", "a\nb", "x" * 2000, f"{one.key}x", "llama.unknown", "gemma3.x"))
    else:
        one.key = draw.choice(file.fields).key


def add_experts(file: File, draw: random.Random) -> None:
    """Says that the model is a mixture of experts."""
    prefix = draw.choice(("llama", "gemma3", "qwen3moe"))
    for key, value in EXPERTS.items():
        file.fields.append(Value(f"{prefix}.{key}", 4, draw.choice((value, 0, 2**31))))
    for name in ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        file.data += bytes(-len(file.data) % 32)
        file.tensors.append(Info(f"blk.0.{name}.weight", [32, 8], 0, len(file.data)))
        file.data += bytes(4 * 32 * 8)


def reclaim(file: File, draw: random.Random) -> None:
    """Claims another length of an array, or other counts of keys and tensors."""
    arrays = [one for one in file.fields if one.kind == ARRAY]
    if arrays and draw.random() < 0.7:
        one = draw.choice(arrays)
        one.length = draw.choice((*COUNTS, len(one.value[1]) + 1, max(0, len(one.value[1]) - 1)))
    elif draw.random() < 0.8:
        near = [len(file.tensors), len(file.fields)]
        near[draw.randrange(2)] = draw.choice((*COUNTS, *(n + d for n in near for d in (-1, 1))))
        file.counts = near[0], near[1]
    else:
        file.version = draw.choice((0, 1, 2, 4, 2**24, 2**32 - 1))


def reword(file: File, draw: random.Random) -> None:
    """Changes an array: its tokens, merges, scores or types."""
    arrays = [one for one in file.fields if one.kind == ARRAY and one.value[1]]
    if not arrays:
        return
    one = draw.choice(arrays)
    kind, entries = one.value
    entries, at, way = list(entries), draw.randrange(len(entries)), draw.randrange(6)
    if way == 0:
        entries[at] = draw.choice(TOKENS) if kind == STRING else scalar(kind, draw)
    elif way == 1:
        entries[at] = draw.choice(entries)
    elif way == 2:
        del entries[at]
    elif way == 3:
        entries.insert(at, draw.choice(TOKENS) if kind == STRING else scalar(kind, draw))
    elif way == 4:
        entries = entries[: draw.choice((0, 1, 2))]
    else:
        entries += entries * draw.choice((1, 99))
    one.value = kind, entries


def replace(file: File, draw: random.Random) -> None:
    """Places a tensor elsewhere: over another, beyond the file, or not where one may begin."""
    one = draw.choice(file.tensors)
    end = len(file.data)
    one.offset = draw.choice(
        (draw.choice(file.tensors).offset, 0, 1, 4, 32, end - end % 32, end + 32, 2**62, 2**64 - 32)
    )


def reshape(file: File, draw: random.Random) -> None:
    """Gives a tensor another shape or type."""
    one, way = draw.choice(file.tensors), draw.randrange(4)
    if way == 0:
        one.kind = draw.choice((*range(45), 2**31))
    elif way == 1:
        one.shape = draw.choice(([], [0], one.shape[::-1], [1, *one.shape], [*one.shape, 1] * 3))
    elif way == 2 and one.shape:
        one.shape[draw.randrange(len(one.shape))] = draw.choice((0, 1, 2, 31, 32, 33, *COUNTS[2:]))
    else:
        one.shape = [draw.choice((1, 2, 32, 2**20, 2**40)) for _ in range(draw.randrange(1, 5))]


def rename(file: File, draw: random.Random) -> None:
    """Leaves a tensor out, doubles it, or calls it otherwise."""
    one, way = draw.choice(file.tensors), draw.randrange(4)
    if way == 0:
        file.tensors.remove(one)
    elif way == 1:
        file.tensors.append(copy.deepcopy(one))
    elif way == 2:
        others = (
            "",
            "a\nb",
            "rope_freqs.weight",
            "output.weight",
            "blk.99.attn_q.weight",
            "x.bias",
        )
        one.name = draw.choice(others)
    else:
        one.name = draw.choice(file.tensors).name


def recut(file: File, draw: random.Random) -> None:
    """Cuts the data, or adds to it."""
    file.data = draw.choice((b"", file.data[:-1], file.data[: len(file.data) // 2], file.data * 2))


CHANGES: tuple[Callable[[File, random.Random], None], ...] = (
    *(retype, revalue, rekey, reclaim, reword, reword),
    *(replace, reshape, rename, recut, add_experts),
)
