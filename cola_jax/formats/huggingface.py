"""Models in Hugging Face layout, opened for conversion."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from pydantic import TypeAdapter
from safetensors import safe_open

from cola_jax.config import Count
from cola_jax.errors import InputError, printed, reading, shorten, shown
from cola_jax.files import check_link, is_file, read_bytes, read_json
from cola_jax.formats.families import FAMILIES, read_config
from cola_jax.formats.multimodal import SEEING
from cola_jax.formats.table import Source, Texts, check, expected, local_origin, unused_names
from cola_jax.question import digest, sha256_of

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# of MXFP4: what four bits mean, the highest is the sign; values that share a scale; its bias
FP4 = np.array([sign * x for sign in (1, -1) for x in (0, 0.5, 1, 1.5, 2, 3, 4, 6)], np.float32)
MXFP4_BLOCK = 32
EXPONENT_BIAS = 127
BLOCKS = "_blocks"  # ends of the names of its two tensors
SCALES = "_scales"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)
GENERATION = "generation_config.json"
CARD = "README.md"
TEXT_FILES = (CONFIG, GENERATION, *TOKENIZER_FILES)
# that a conversion reads, and of those that read pictures their tower
FILES = (CONFIG, GENERATION, INDEX, "*.safetensors", *TOKENIZER_FILES, "*processor_config.json")
# buffers of old checkpoints, which follow from the config
BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
WEIGHT_MAP = TypeAdapter(dict[str, str])
TOKEN_IDS = TypeAdapter(list[Count])


def open_folder_texts(folder: Path) -> Texts:
    """Open a local directory without its weights; InputError for a model that is not supported."""
    for pattern in TEXT_FILES:
        for file in folder.glob(pattern):
            check_link(file, folder)
    values = read_config_file(folder)
    with reading(folder / CONFIG):
        config, _ = read_config(values)
    stop = read_stop_tokens(folder, values)
    return Texts(config, lambda target: copy_tokenizer(folder, target), stop)


def open_directory(folder: Path) -> Source:
    """Open a local directory; InputError where it is not a complete model that is supported.

    Links to files elsewhere are refused, but for those to blobs in the cache of the Hub.
    """
    for pattern in (*FILES, CARD):
        for file in folder.glob(pattern):
            check_link(file, folder)
    values = read_config_file(folder)
    with reading(folder / CONFIG):
        config, rows = read_config(values)
    tensors = SafetensorsFiles(folder)
    family = FAMILIES[values["model_type"]]
    rows = tuple(
        row._replace(theirs=row.older)
        if row.older and next(expected(row._replace(theirs=row.older), config))[1] in tensors.shapes
        else row
        for row in rows
    )
    embedding, head = (family.weights[name].theirs for name in ("embedding", "head"))
    tied_head = config.tied and {head, embedding} <= tensors.shapes.keys()
    if tied_head and not np.array_equal(tensors.read(head), tensors.read(embedding)):
        raise InputError(
            f"{folder / CONFIG} says tie_word_embeddings, but {head} differs from {embedding}: one "
            "of them is wrong."
        )

    outside = tuple(prefix.format(L=config.num_layers) for prefix in family.outside)
    unused = unused_names(rows, config)

    def ignored(name: str) -> bool:
        is_buffer = BUFFERS.fullmatch(name) is not None
        is_unused = name in unused or (tied_head and name == head)
        return is_buffer or is_unused or name.startswith(outside)

    check(tensors, rows, config, ignored)
    # the family of a model that has parts for pictures as well
    multimodal = {} if family.name else {"multimodal": values["model_type"]}
    return Source(
        config=config,
        rows=rows,
        tensors=tensors,
        dtype=tensors.dtype(embedding),
        write_tokenizer=lambda target: copy_tokenizer(folder, target),
        origin=local_origin("directory", folder, read_license(folder)) | multimodal,
        stop_tokens=read_stop_tokens(folder, values),
        tower=(lambda: tower_digest(folder, values, tensors, outside))
        if values["model_type"] in SEEING
        else None,
    )


def tower_digest(
    folder: Path, values: Mapping[str, Any], tensors: "SafetensorsFiles", prefixes: tuple[str, ...]
) -> str:
    """Return the digest of the parts for pictures: their config, processor and weights.

    `values` are those of `config.json`, `prefixes` those of the names of the weights.
    """
    others = "text_config", "transformers_version"
    config = {name: value for name, value in values.items() if name not in others}
    processor = {
        file.name: sha256_of(read_bytes(file))
        for file in sorted(folder.glob("*processor_config.json"))
    }
    names = sorted(name for name in tensors.shapes if name.startswith(prefixes))
    return digest(config, processor, {name: tensors.digest(name) for name in names})


def read_config_file(folder: Path) -> dict[str, Any]:
    """Read a model's `config.json`; InputError where it is missing."""
    if not is_file(folder / CONFIG):
        raise InputError(
            f"{folder} is not a model: it has neither {CONFIG}, as a Hugging Face model has, nor "
            "cola.json, as `cola convert` writes."
        )
    return read_json(folder / CONFIG)


def read_license(folder: Path) -> str | None:
    """Return the license that a model card states, None without a readable card."""
    from huggingface_hub import metadata_load  # imports a client of HTTP

    try:
        with reading(folder / CARD):
            return (metadata_load(folder / CARD) or {}).get("license")
    except (InputError, OSError):
        return None


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
    """The tensors of one or more safetensors files, by name.

    The two of a weight in MXFP4 are one tensor, of the weight's name without an end.
    """

    def __init__(self, folder: Path):
        self.place = folder
        self.files: dict[str, Any] = {}  # the open file of each tensor
        for file in weight_files(folder):
            with reading(file, "It is damaged or incomplete: download it again."):
                opened = safe_open(str(file), framework="numpy")
            self.files |= dict.fromkeys(opened.keys(), opened)
        slices = {name: opened.get_slice(name) for name, opened in self.files.items()}
        self.shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        self.stored = {name: piece.get_dtype() for name, piece in slices.items()}
        for name in slices:
            if name.endswith(BLOCKS):
                self.join_mxfp4(name.removesuffix(BLOCKS))

    def join_mxfp4(self, name: str) -> None:
        """List the two tensors of a weight in MXFP4 as one; leave others of such names alone."""
        ends = name + BLOCKS, name + SCALES
        blocks, scales = (self.shapes.get(end, ()) for end in ends)
        in_bytes = name not in self.files and {self.stored.get(end) for end in ends} == {"U8"}
        if in_bytes and len(scales) == 3 and blocks == (*scales, MXFP4_BLOCK // 2):
            experts, rows, count = scales
            self.shapes[name] = experts, count * MXFP4_BLOCK, rows
            self.stored[name] = "BF16"  # which holds the values exactly
            for end in ends:
                del self.shapes[end]

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
        if name not in self.files:
            ends = name + BLOCKS, name + SCALES
            return widen_mxfp4(*(self.files[end].get_tensor(end) for end in ends))
        return self.files[name].get_tensor(name)

    def digest(self, name: str) -> str:
        """Return the digest of one tensor, with its shape, as it is stored."""
        content = self.files[name].get_tensor(name).tobytes()
        return digest(self.stored[name], self.shapes[name], sha256_of(content))


def widen_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Widen bytes [E, R, G, 16] of a weight in MXFP4 to bfloat16 [E, 32 G, R].

    A byte holds two values, the first in its lower half. The 32 values of 16 bytes share a power of
    two, whose biased exponents are `scales` [E, R, G].
    """
    experts, rows, count = scales.shape
    wide = np.empty((experts, count * MXFP4_BLOCK, rows), DTYPES["BF16"])
    for target, block, scale in zip(wide, blocks, scales, strict=True):
        values = FP4[np.stack([block & 15, block >> 4], axis=-1)].reshape(rows, count, -1)
        values = np.ldexp(values, scale[:, :, None].astype(np.int32) - EXPONENT_BIAS)
        target[...] = values.reshape(rows, -1).T
    return wide


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model; InputError if any is missing."""
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
        names = WEIGHT_MAP.validate_python(read_json(folder / INDEX)["weight_map"]).values()
        for name in names:
            if Path(name).name != name:
                raise InputError(f"it names {shown(name)}, which is not a file beside it.")
    files = [folder / name for name in sorted(set(names))]
    if lacking := [printed(file.name) for file in files if not is_file(file)]:
        raise InputError(f"{folder} lacks {shorten(lacking)}: complete the download.")
    return files


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the tokenizer files that the directory has."""
    for name in TOKENIZER_FILES:
        if is_file(folder / name):
            shutil.copyfile(folder / name, target / name)
