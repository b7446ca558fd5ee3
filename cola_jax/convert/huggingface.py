"""Reading Hugging Face checkpoints: a local directory, or a Hub id that is downloaded first."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cola_jax.convert.families import family_of, read_config
from cola_jax.convert.source import Source
from cola_jax.convert.table import check

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"),
)
GENERATION = "generation_config.json"
# buffers that old checkpoints carry and that the config determines
BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def open_hub(name: str, revision: str | None) -> Source:
    """Downloads a Hub repository's config, safetensors and tokenizer, and opens them.

    The revision (a branch, tag or commit; the default branch when None) is resolved to a commit,
    which is what gets recorded. Raises ValueError where the Hub cannot be reached or refuses.
    """
    if not HUB_ID.fullmatch(name):
        raise ValueError(
            f"source {name!r} is neither an existing directory, nor a .gguf file, nor a Hub id "
            "like HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    # what is not supported is refused before its weights are fetched
    folder = download(name, revision, ["config.json"])
    read_config(read_json(folder / "config.json"))
    commit = folder.name  # the cache keeps each commit in a folder of its name
    files = ["config.json", GENERATION, "*.safetensors", INDEX, *TOKENIZER_FILES]
    folder = download(name, commit, files)
    return open_directory(folder)._replace(origin={"kind": "hub", "name": name, "revision": commit})


def download(name: str, revision: str | None, patterns: list[str]) -> Path:
    """Downloads files of a Hub repository, or finds them in the cache; ValueError where not."""
    from huggingface_hub import snapshot_download

    # some repositories hold the weights twice, once more in their authors' own format
    skipped = ["consolidated*", "*/*"]
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=skipped
            )
        )
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        raise ValueError(
            f"{name} (revision {revision or 'default'}) could not be had from the Hub: "
            f"{error} Check the id, log in with `hf auth login` if it is gated, or give a local "
            "directory."
        ) from error


def open_directory(folder: Path) -> Source:
    """Opens a local directory in Hugging Face layout.

    Raises ValueError where files are missing or damaged, tensors do not match the config, or
    the weights are pickled.
    """
    values = read_json(folder / "config.json")
    config, rows = read_config(values)
    tensors = SafetensorsFiles(folder)
    # in multimodal files all names of the decoder begin with one more word
    embedding = next(row.theirs for row in rows if row.ours == "embedding")
    head = embedding.replace(EMBEDDING, HEAD)
    tied_head = config.tied and head in tensors.shapes
    if tied_head:
        check_tied_head(tensors, head, embedding)
    others = family_of(values).others

    def ignored(name: str) -> bool:
        is_buffer = BUFFERS.fullmatch(name) is not None
        return is_buffer or name.startswith(others) or (tied_head and name == head)

    check(tensors, rows, config, ignored)
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
    """Reads which tokens end a generation: chat models often name more than their tokenizer.

    `generation_config.json` has the last word, then the config and the text part of it. Raises
    ValueError for an eos_token_id that is not a token id or a list of them.
    """
    generation = read_json(folder / GENERATION) if (folder / GENERATION).exists() else {}
    text = config.get("text_config")
    parts = {GENERATION: generation, "config.json": config, "text_config": text or {}}
    for name, values in parts.items():
        found = values.get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if any(type(i) is not int or i < 0 for i in ids):
            raise ValueError(
                f"{folder}: eos_token_id of {name} must be a token id or a list of them, it is "
                f"{found!r}."
            )
        if ids:
            return tuple(sorted(set(ids)))
    return ()


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; ValueError where there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{file.parent} has no {file.name}: it is not a Hugging Face model."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON ({error}): fetch it again.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object, it holds a {type(values).__name__}.")
    return values


class SafetensorsFiles:
    """The tensors of one or many safetensors files, by name."""

    def __init__(self, folder: Path):
        self.files = {file.name: open_file(file) for file in weight_files(folder)}
        self.home: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file_name, handle in self.files.items():
            for name in handle.keys():  # noqa: SIM118 - a handle is not a mapping
                if name in self.home:
                    raise ValueError(
                        f"{folder} has tensor {name} in {self.home[name]} and {file_name}."
                    )
                self.home[name] = file_name
                self.shapes[name] = tuple(handle.get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        """Returns a tensor's dtype; ValueError for one that is not a plain float."""
        stored = self.files[self.home[name]].get_slice(name).get_dtype()
        if stored not in DTYPES:
            raise ValueError(
                f"tensor {name} is stored as {stored}; {', '.join(DTYPES)} can be converted. "
                "Quantised checkpoints must be dequantised first."
            )
        return DTYPES[stored]

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        self.dtype(name)
        return self.files[self.home[name]].get_tensor(name)


def weight_files(folder: Path) -> list[Path]:
    """Lists the safetensors files of a model; ValueError where any is missing."""
    if (folder / INDEX).exists():
        files = read_json(folder / INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(x, str) for x in files.values()):
            raise ValueError(f"{folder / INDEX} has no weight_map of files: fetch it again.")
        names = sorted(set(files.values()))
        if missing := [name for name in names if not (folder / Path(name).name).is_file()]:
            raise ValueError(
                f"{folder} lacks {missing}, which {INDEX} names: complete the download."
            )
        return [folder / Path(name).name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        raise ValueError(
            f"{folder} has {[f.name for f in files]}, but neither model.safetensors nor {INDEX}."
        )
    pickles = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder} has only pickled weights {pickles}, which can run code when they are read. "
            "Take a revision with safetensors, or save the model again with "
            "`save_pretrained(..., safe_serialization=True)`."
        )
    raise ValueError(f"{folder} has no safetensors files: there are no weights to convert.")


def open_file(file: Path) -> Any:
    """Opens one safetensors file; ValueError where its header or length is wrong."""
    try:
        return safe_open(str(file), framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or incomplete ({error}): fetch it again.") from error


def check_tied_head(tensors: SafetensorsFiles, head: str, embedding: str) -> None:
    """Raises ValueError for a stored head that differs from the embedding it is tied to."""
    one, other = tensors.read(head), tensors.read(embedding)
    if one.shape != other.shape or not np.array_equal(one, other):
        raise ValueError(
            f"config.json says tie_word_embeddings, but {head} differs from {embedding}: one of "
            "them is wrong."
        )


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copies whatever tokenizer files the directory has."""
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
