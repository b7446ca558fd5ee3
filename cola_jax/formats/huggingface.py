"""Read a local directory in Hugging Face layout: safetensors, config, tokenizer, stop tokens."""

import re
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from pydantic import TypeAdapter
from safetensors import safe_open

from cola_jax.config import Count
from cola_jax.errors import InputError, printed, reading, shorten, shown
from cola_jax.files import is_file, read_json
from cola_jax.formats.hf_config import family_of, read_config
from cola_jax.formats.table import Source, check

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)
GENERATION = "generation_config.json"
CARD = "README.md"
FILES = (CONFIG, GENERATION, INDEX, "*.safetensors", *TOKENIZER_FILES)  # that a conversion reads
# buffers of old checkpoints, which follow from the config
BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
WEIGHT_MAP, TOKEN_IDS = TypeAdapter(dict[str, str]), TypeAdapter(list[Count])


def read_config_file(folder: Path) -> dict[str, Any]:
    """Read a model's `config.json`; InputError where it is missing."""
    if not is_file(folder / CONFIG):
        raise InputError(
            f"{folder} is not a model: it has neither {CONFIG}, as a Hugging Face model has, nor "
            "cola.json, as `cola convert` writes."
        )
    return read_json(folder / CONFIG)


def open_directory(folder: Path) -> Source:
    """Open a local directory in Hugging Face layout.

    Raises InputError if files are missing or damaged, tensors do not match the config, or the
    weights are pickled.
    """
    values = read_config_file(folder)
    with reading(folder / CONFIG):
        config, rows = read_config(values)
    tensors = SafetensorsFiles(folder)
    # multimodal models put a prefix before all names of the decoder
    embedding = next(row.theirs for row in rows if row.ours == "embedding")
    head = embedding.replace(EMBEDDING, HEAD)
    tied_head = config.tied and {head, embedding} <= set(tensors.shapes)
    if tied_head and not np.array_equal(tensors.read(head), tensors.read(embedding)):
        raise InputError(
            f"{folder / CONFIG} says tie_word_embeddings, but {head} differs from {embedding}: one "
            "of them is wrong."
        )
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
        origin={
            "kind": "directory",
            "name": str(folder.resolve()),
            "revision": None,
            "license": read_license(folder),
        },
        stop_tokens=read_stop_tokens(folder, values),
    )


def read_license(folder: Path) -> str | None:
    """Return the license that a model card states, None where there is no readable card."""
    from huggingface_hub import metadata_load  # imports a client of HTTP

    try:
        with reading(folder / CARD):
            license = (metadata_load(folder / CARD) or {}).get("license")
    except (InputError, OSError):
        return None
    return license if isinstance(license, str) else None


def read_stop_tokens(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Read the tokens that end a generation; chat models often have more than their tokenizer.

    `generation_config.json` takes precedence over the config, and the config over its text part.
    Raises InputError for an eos_token_id that is neither a token id nor a list of them.
    """
    generation = read_json(folder / GENERATION) if is_file(folder / GENERATION) else {}
    text = config.get("text_config") or {}
    for name, values in ((GENERATION, generation), (CONFIG, config), ("text_config", text)):
        stored = values.get("eos_token_id")
        ids = stored if isinstance(stored, list) else [] if stored is None else [stored]
        with reading(f"{folder}: eos_token_id of {name}"):
            ids = TOKEN_IDS.validate_python(ids, strict=True)
        if ids:
            return tuple(sorted(set(ids)))
    return ()


class SafetensorsFiles:
    """The tensors of one or more safetensors files, by name."""

    def __init__(self, folder: Path):
        self.place = folder
        self.files: dict[str, Any] = {}  # the open file of each tensor
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.stored: dict[str, str] = {}  # dtypes
        for file in weight_files(folder):
            with reading(file, "It is damaged or incomplete: download it again."):
                opened = safe_open(str(file), framework="numpy")
            for name in opened.keys():  # noqa: SIM118 - it is not a mapping
                if name in self.files:
                    raise InputError(f"{folder} has tensor {printed(name)} in two files.")
                piece = opened.get_slice(name)
                self.files[name] = opened
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
        return self.files[name].get_tensor(name)


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model; raise InputError if any is missing or elsewhere."""
    if not is_file(folder / INDEX):
        if is_file(folder / WEIGHTS):
            return [folder / WEIGHTS]
        weights = (".safetensors", ".bin", ".pt", ".pth")
        others = sorted(printed(file.name) for file in folder.iterdir() if file.suffix in weights)
        raise InputError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}, but [{shorten(others)}]. Complete the "
            "download. Pickled weights can run code when loaded: choose a revision with "
            "safetensors, or save the model again with `save_pretrained`."
        )
    with reading(folder / INDEX, "Download it again."):
        names = set(WEIGHT_MAP.validate_python(read_json(folder / INDEX)["weight_map"]).values())
    for name in sorted(names):
        if name != Path(name).name or not name.isprintable():
            raise InputError(
                f"{folder / INDEX} names {shown(name)}, which is not a file of that directory: "
                "download it again."
            )
        if not is_file(folder / name):
            raise InputError(
                f"{folder} lacks {printed(name)}, which {INDEX} names: complete the download."
            )
    return [folder / name for name in sorted(names)]


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the tokenizer files that the directory has."""
    for name in TOKENIZER_FILES:
        if is_file(folder / name):
            shutil.copyfile(folder / name, target / name)
