"""Read Hugging Face models: the supported families, and local directories."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import safe_open

from cola_jax.config import LIMIT, ModelConfig
from cola_jax.errors import InputError, printed, reading, shorten, shown
from cola_jax.files import is_file, read_json
from cola_jax.formats import gemma, llama, olmo, qwen
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.table import Row, Source, check

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)
GENERATION = "generation_config.json"
# buffers of old checkpoints, which follow from the config
BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


class Family(NamedTuple):
    """How to read a model_type: its config, and the table of weights for that config."""

    read: Callable[[Attributes], ModelConfig]
    rows: Callable[[ModelConfig], tuple[Row, ...]]
    ignored: tuple[str, ...] = ()  # prefixes of tensors outside the decoder


FAMILIES = {
    "gemma3": Family(gemma.read_gemma3, gemma.multimodal_rows, gemma.VISION),
    "gemma3_text": Family(gemma.read_gemma3_text, gemma.rows),
    "llama": Family(llama.read_llama, llama.rows),
    "mistral": Family(llama.read_mistral, llama.rows),
    "olmo2": Family(olmo.read_olmo2, olmo.olmo2_rows),
    "olmoe": Family(olmo.read_olmoe, olmo.olmoe_rows),
    "qwen2": Family(qwen.read_qwen2, qwen.rows),
    "qwen2_moe": Family(qwen.read_qwen2_moe, qwen.rows),
    "qwen3": Family(qwen.read_qwen3, qwen.rows),
    "qwen3_moe": Family(qwen.read_qwen3_moe, qwen.rows),
}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Read a Hugging Face config; returns ours and its table of weights.

    Raises InputError for a family or an attribute that is not supported.
    """
    family = family_of(values)
    attributes = Attributes(values)
    config = family.read(attributes)
    attributes.refuse_unknown()
    return config, family.rows(config)


def family_of(values: Mapping[str, Any]) -> Family:
    """Return the family of a config; raise InputError for one that is not supported."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"model_type {shown(kind)} is not supported. Supported: "
            f"{', '.join(sorted(FAMILIES))}. convert/README.md shows how to add a family."
        )
    return FAMILIES[kind]


def read_config_file(folder: Path) -> dict[str, Any]:
    """Read a model's `config.json`; InputError where it is missing."""
    if not is_file(folder / "config.json"):
        raise InputError(f"{folder} has no config.json: it is not a Hugging Face model.")
    return read_json(folder / "config.json")


def open_directory(folder: Path) -> Source:
    """Open a local directory in Hugging Face layout.

    Raises InputError if files are missing or damaged, tensors do not match the config, or the
    weights are pickled.
    """
    values = read_config_file(folder)
    with reading(folder / "config.json"):
        config, rows = read_config(values)
    tensors = SafetensorsFiles(folder)
    # multimodal models put a prefix before all names of the decoder
    embedding = next(row.theirs for row in rows if row.ours == "embedding")
    head = embedding.replace(EMBEDDING, HEAD)
    tied_head = config.tied and {head, embedding} <= set(tensors.shapes)
    if tied_head:
        check_tied_head(tensors, head, embedding)
    outside = family_of(values).ignored

    def ignored(name: str) -> bool:
        is_buffer = BUFFERS.fullmatch(name) is not None
        return is_buffer or name.startswith(outside) or (tied_head and name == head)

    check(tensors, rows, config, ignored)
    for name in tensors.shapes:
        if not ignored(name):
            tensors.dtype(name)
    return Source(
        config=config,
        rows=rows,
        tensors=tensors,
        dtype=tensors.dtype(embedding),
        write_tokenizer=lambda target: copy_tokenizer(folder, target),
        origin={"kind": "directory", "name": str(folder.resolve()), "revision": None},
        stop_tokens=read_stop_tokens(folder, values),
    )


def read_stop_tokens(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Read the tokens that end a generation; chat models often have more than their tokenizer.

    `generation_config.json` takes precedence over the config, and the config over its text part.
    Raises InputError for an eos_token_id that is neither a token id nor a list of them.
    """
    generation = read_json(folder / GENERATION) if is_file(folder / GENERATION) else {}
    text = config.get("text_config")
    parts = {GENERATION: generation, "config.json": config, "text_config": text or {}}
    for name, values in parts.items():
        found = values.get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if any(type(i) is not int or not 0 <= i < LIMIT for i in ids):
            raise InputError(
                f"{folder}: eos_token_id of {name} must be a token id or a list of them, got "
                f"{shown(found)}."
            )
        if ids:
            return tuple(sorted(set(ids)))
    return ()


class SafetensorsFiles:
    """The tensors of one or more safetensors files, by name."""

    def __init__(self, folder: Path):
        self.place = folder
        self.files = {file.name: open_file(file) for file in weight_files(folder)}
        self.home: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.stored: dict[str, str] = {}  # dtypes
        for file_name, handle in self.files.items():
            for name in handle.keys():  # noqa: SIM118 - a handle is not a mapping
                if name in self.home:
                    raise InputError(
                        f"{folder} has tensor {printed(name)} in {self.home[name]} and {file_name}."
                    )
                piece = handle.get_slice(name)
                self.home[name] = file_name
                self.shapes[name] = tuple(piece.get_shape())
                self.stored[name] = piece.get_dtype()

    def dtype(self, name: str) -> np.dtype:
        """Return a tensor's dtype; raise InputError for integers and quantised formats."""
        stored = self.stored[name]
        if stored not in DTYPES:
            raise InputError(
                f"tensor {printed(name)} is stored as {stored}; {', '.join(DTYPES)} can be "
                "converted. Quantised checkpoints must be dequantised first."
            )
        return DTYPES[stored]

    def read(self, name: str) -> np.ndarray:
        """Read one tensor."""
        self.dtype(name)
        return self.files[self.home[name]].get_tensor(name)


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model; raise InputError if any is missing."""
    if is_file(folder / INDEX):
        return indexed_files(folder)
    if is_file(folder / "model.safetensors"):
        return [folder / "model.safetensors"]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        raise InputError(
            f"{folder} has {shorten([printed(f.name) for f in files])}, but neither "
            f"model.safetensors nor {INDEX}."
        )
    pickles = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} has only pickled weights {pickles[:4]}, which can run code when loaded. "
            "Choose a revision with safetensors, or save the model again with "
            "`save_pretrained(..., safe_serialization=True)`."
        )
    raise InputError(f"{folder} has no safetensors files: there are no weights to convert.")


def indexed_files(folder: Path) -> list[Path]:
    """List the files that the index names; raise InputError if any is missing or elsewhere."""
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(x, str) for x in files.values()):
        raise InputError(f"{folder / INDEX} has no weight_map of files: download it again.")
    names = sorted({str(Path(name)) for name in files.values()})
    if outside := [name for name in names if name != Path(name).name or not name.isprintable()]:
        raise InputError(
            f"{folder / INDEX} names {shown(outside[0])}, which is not a file of that directory: "
            "download it again."
        )
    if missing := [printed(name) for name in names if not is_file(folder / name)]:
        raise InputError(
            f"{folder} lacks [{shorten(missing)}], which {INDEX} names: complete the download."
        )
    return [folder / name for name in names]


def open_file(file: Path) -> Any:
    """Open a safetensors file; InputError if its header or length is wrong."""
    with reading(file, "It is damaged or incomplete: download it again."):
        return safe_open(str(file), framework="numpy")


def check_tied_head(tensors: SafetensorsFiles, head: str, embedding: str) -> None:
    """Raise InputError if a stored head differs from the embedding that it is tied to."""
    if not np.array_equal(tensors.read(head), tensors.read(embedding)):
        raise InputError(
            f"config.json says tie_word_embeddings, but {head} differs from {embedding}: one of "
            "them is wrong."
        )


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the tokenizer files that the directory has."""
    for name in TOKENIZER_FILES:
        if is_file(folder / name):
            shutil.copyfile(folder / name, target / name)
