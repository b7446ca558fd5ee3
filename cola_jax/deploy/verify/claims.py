"""Read a claim: a path, or a file or model that others publish for one."""

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cola_jax.checkpoint import read_metadata
from cola_jax.deploy.path_file import PathFile, find_path_file
from cola_jax.deploy.provenance import UNKNOWN_PROVENANCE, Provenance
from cola_jax.deploy.verify.edited_model import path_of_model
from cola_jax.errors import InputError, printed, reading, shown
from cola_jax.files import is_file, parse_yaml, read_bytes, read_text
from cola_jax.formats.conversion import similar_name
from cola_jax.formats.huggingface import CONFIG
from cola_jax.formats.identity import HUB_ID, Identity, named_model
from cola_jax.formats.peers import (
    EVOPRESS,
    MERGE,
    Sample,
    check_lost,
    evopress_path,
    is_drllm,
    merge_model,
    parse_without_nulls,
    path_without,
    read_paths,
    read_samples,
    reader_of,
    rys_path,
)
from cola_jax.path import LayerPath, format_path, identity, parse_path, validate
from cola_jax.question import digest
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, has_share, layer_of, missing_part, part_of

DROPPED, LAYERS = "dropped:", "layers:"  # prefixes of lists of layers
PATH_TEXT = re.compile(r"[0-9(][0-9\s,;.()xam*-]*|blocks:.*", re.IGNORECASE)
SEARCHES = {"polar": "PoLar", "drllm": "Dr.LLM"}
FORMS = (
    "A claim is a path such as 0-5,7,7,8-29, a block of RYS such as (30,34) or "
    "blocks:31,34;43,45, a path of llm-circuit-finder such as 0..14,12..39, dropped layers such as "
    "dropped:21-28 or dropped:21-25,26a, a file of one of these or of mergekit, PoLar, Dr.LLM, "
    "EvoPress, SWIFT or a loop, a directory of results of PoLar or Dr.LLM, a directory or a Hub id "
    "such as owner/name with a path.json, or a model with layers of the base model: a Hub id, or a "
    "directory in Hugging Face layout."
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A path that somebody says does better."""

    name: str  # short, for tables
    text: str  # as the user gave it
    kind: str  # path, rys, circuit-finder, mergekit, dropped layers, loop, polar, drllm or model
    path: LayerPath
    digest: str | None = None  # SHA-256 of the file, or of the weights of the model
    note: str = ""  # a sentence on how the path was derived
    provenance: Provenance = UNKNOWN_PROVENANCE  # where the path was chosen


def read_claim(text: str, checkpoint: str | Path, num_layers: int) -> Claim:
    """Read a claim on a model of `num_layers` layers, whose checkpoint is a directory.

    The form is recognised in this order:

    1. `dropped:` with layers to skip, such as 21-28, 26a (its attention) or the list of ShortGPT
       [27, 26, 25], or with a file that has them; `layers:` likewise with the layers to run, as RYS
       writes a path.
    2. Digits and punctuation: a path, pairs of RYS, or a path of llm-circuit-finder.
    3. A directory with a path.json, or a Hub id with its owner, also as ID@REVISION, of a
       repository with one: its path.
    4. A directory with a config.json, or a .gguf file: a model whose layers are the base model's.
    5. Another directory: the JSON files of PoLar or Dr.LLM in it.
    6. A file, by its content: see `from_file`.
    7. Another Hub id: a model as in 4.

    Only a model's weights are read, and those of the checkpoint to compare them. Raises InputError
    for other texts, layers that the model lacks, a file that names another model, and the identity
    path.
    """
    claim = recognise(text, checkpoint, num_layers)
    with reading(f"the claim {printed(text)}"):
        path = validate(claim.path, num_layers, 2 * num_layers)
        if path == identity(num_layers):
            raise InputError("it is the identity path, so there is nothing to try.")
    return claim


def place_of(text: str) -> Path:
    """Return the place that a text names, where ~ is the home folder."""
    return Path(os.path.expanduser(text))  # leaves ~nobody as it is


def check_not_empty(text: str) -> None:
    """Raise InputError for an empty claim, which as a path would be the current directory."""
    if not text.strip():
        raise InputError(f"{shown(text)} is an empty claim. {FORMS}")


def recognise(text: str, checkpoint: str | Path, num_layers: int) -> Claim:
    """Read a claim by its form; see `read_claim`."""
    check_not_empty(text)
    place = place_of(text)
    if text.lower().startswith((DROPPED, LAYERS)):
        return from_list(text, num_layers)
    if PATH_TEXT.fullmatch(text):
        return from_text(text, num_layers)
    if (file := beside(text)) is not None:
        claim = from_file(str(file), checkpoint, num_layers)
        name = text if not os.path.exists(place) else place.name
        return dataclasses.replace(claim, name=name, text=text)
    is_model = os.path.isfile(place / CONFIG) or (place.suffix == ".gguf" and is_file(place))
    if not (is_model or os.path.exists(place)):
        is_model = "/" in text and HUB_ID.fullmatch(text.partition("@")[0]) is not None
        if not is_model:
            raise InputError(f"{shown(text)} is not a claim{similar_name(place)}. {FORMS}")
    if is_model:
        path, model_digest = path_of_model(text, checkpoint)
        note = "Each layer of the model is equal to the layer of the base model on the path."
        return Claim(place.name, text, "model", path, model_digest, note)
    if place.is_dir():
        return from_directory(text, checkpoint, num_layers)
    return from_file(text, checkpoint, num_layers)


def beside(text: str) -> Path | None:
    """Return the `path.json` of a directory or a repository; None for others, such as models."""
    if text.endswith(".json"):
        return None
    try:
        file = find_path_file(text)
    except InputError:  # the Hub has no answer, nor for the model that this may be
        if os.path.exists(place_of(text)):
            raise
        return None
    return None if file is None else Path(file)


def from_text(text: str, num_layers: int) -> Claim:
    """Read a path, pairs of RYS, or a path of llm-circuit-finder."""
    body = "".join(text.lower().split())
    with reading(f"the claim {printed(text)}"):
        read = reader_of([body])
        path = read(body.replace("..", "-"), num_layers, 2 * num_layers)
    if read is rys_path:
        note = "Each block (i, j) runs layers i to j-1 twice."
        return Claim(f"RYS {body.removeprefix('blocks:')}", text, "rys", path, note=note)
    if ".." in body:
        note = "A layer path of llm-circuit-finder, whose ranges include both ends."
        return Claim(format_path(path), text, "circuit-finder", path, note=note)
    return Claim(format_path(path), text, "path", path)


def from_list(text: str, num_layers: int) -> Claim:
    """Read a list of layers to drop or to run, after its prefix; it may be in a file."""
    drops, rest = text.lower().startswith(DROPPED), text.partition(":")[2]
    file = place_of(rest)
    in_file = os.path.isfile(file)
    if not in_file and not re.fullmatch(r"[0-9,\s()xam*.[\]-]+", rest):
        raise InputError(
            f"the claim {printed(text)} has neither layers such as 21-28 nor a file after its "
            f"prefix{similar_name(file)}."
        )
    content = read_text(file) if in_file else rest
    file_digest = digest_of_file(file) if in_file else None
    with reading(file if in_file else f"the claim {printed(text)}"):
        words = content.replace(",", " ").strip("[] \n").split()
        if drops and not EVOPRESS.isdisjoint(words):
            for word in words:
                check_lost(word)
            path = evopress_path(words, num_layers)
            return dropped_claim(text, path, num_layers, file_digest)
        steps = parse_path(",".join(words), num_layers)
        if drops:
            if damped := [step for step in steps if has_share(step)]:
                raise InputError(
                    f"it drops a share, {format_path(damped[:1])}: give a path that runs the rest."
                )
            attention = {layer_of(step) for step in steps if part_of(step) != MLP}
            mlp = {layer_of(step) for step in steps if part_of(step) != ATTENTION}
            path = path_without(attention, mlp, num_layers)
            return dropped_claim(text, path, num_layers, file_digest)
    return Claim(format_path(steps), text, "path", steps, file_digest)


def dropped_claim(text: str, path: LayerPath, num_layers: int, file_digest: str | None) -> Claim:
    """Make the claim of a path without layers or parts of layers, named by what it leaves out."""
    run = {layer_of(step): step for step in path}
    left_out = {None: [], ATTENTION: [], MLP: []}
    for layer in range(num_layers):
        if layer not in run:
            left_out[None].append(layer)
        elif (part := missing_part(run[layer])) is not None:
            left_out[part].append(layer)
    names = {None: "layers", ATTENTION: "the attention of layers", MLP: "the MLP of layers"}
    said = [f"{names[part]} {format_path(layers)}" for part, layers in left_out.items() if layers]
    if not said:
        raise InputError("it drops nothing, so there is nothing to try.")
    note = " and ".join(said)
    steps = [Step(layer, part or WHOLE).id for part, layers in left_out.items() for layer in layers]
    name = f"dropped {format_path(sorted(steps, key=Step.of))}"
    return Claim(
        name, text, "dropped layers", path, file_digest, f"{note[0].upper()}{note[1:]} are dropped."
    )


def check_model(
    file: Path, checkpoint: str | Path, model: Any, name: Any = None, dtype: Any = None
) -> None:
    """Raise InputError for a file that names another model; most name none."""
    if model is not None:
        Identity.of(read_metadata(checkpoint)).check(file, model, name, dtype)


def from_file(text: str, checkpoint: str | Path, num_layers: int) -> Claim:
    """Read a file: JSON, EvoPress's lines, a passthrough merge of mergekit, or a line as a claim.

    Raises InputError for several paths, and for paths of another model.
    """
    file = place_of(text)
    content = read_text(file)
    lines = list(filter(None, (x.partition("#")[0].strip() for x in content.splitlines())))
    with reading(file):
        if content.lstrip()[:1] in ("[", "{"):
            claim = from_json(text, content, num_layers)
            check_model(file, checkpoint, *named_model(parse_without_nulls(content)))
        elif lines and EVOPRESS.issuperset(lines):
            claim = from_list(f"{DROPPED}{text}", num_layers)
        elif len(lines) == 1:
            claim = from_text(lines[0], num_layers)
        else:
            claim = Claim(file.name, text, "path", only_path(file, num_layers))
            if MERGE.search(content):
                model = merge_model(parse_yaml(content, file))
                check_model(file, checkpoint, model)
                note = f"A passthrough merge of layers of {printed(model)}."
                claim = dataclasses.replace(claim, kind="mergekit", note=note)
    return dataclasses.replace(claim, text=text, digest=digest_of_file(file))


def from_json(text: str, content: str, num_layers: int) -> Claim:
    """Read JSON of PoLar, Dr.LLM, SWIFT, a loop, `cola static`, or with one path in a list.

    Raises InputError for a list of layers, which may be those to run or to drop.
    """
    file, value = place_of(text), parse_without_nulls(content)
    if (samples := read_samples(value, num_layers)) is not None:
        return most_often_right(file.name, text, search_kind(value), samples, num_layers)
    if isinstance(value, list) and any(isinstance(layer, int) for layer in value):
        raise InputError(
            f"a list of layers may be a path, or layers that are dropped: give {LAYERS}{text} or "
            f"{DROPPED}{text}"
        )
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        # of `cola static`, the path that was found, whether or not it is recommended
        path = PathFile.of(value, text).layers_of(text, num_layers, found=True)
        return Claim(file.name, text, "path", path)
    path = only_path(file, num_layers)
    if isinstance(value, dict) and "window" in value:
        note = f"A loop, read as the path {format_path(path)}; each run has a cache of its own."
        return Claim(file.name, text, "loop", path, note=note)
    if isinstance(value, dict):
        return dropped_claim(text, path, num_layers, None)
    return Claim(file.name, text, "path", path)


def only_path(file: Path, num_layers: int) -> LayerPath:
    """Return the one path of a file; InputError for several."""
    paths = read_paths(file, num_layers)
    if len(paths) > 1:
        raise InputError(
            f"it has {len(paths)} paths, such as {format_path(paths[0])} and "
            f"{format_path(paths[1])}: give each as a claim of its own"
        )
    return paths[0]


def from_directory(text: str, checkpoint: str | Path, num_layers: int) -> Claim:
    """Read the results of PoLar or Dr.LLM in a directory; InputError for other JSON files."""
    folder = place_of(text)
    files, samples, kinds = sorted(folder.rglob("*.json")), [], []
    if not files:
        raise InputError(f"{text} has neither a {CONFIG}, as a model has, nor results. {FORMS}")
    for file in files:
        with reading(file):
            value = parse_without_nulls(read_text(file))
            read = read_samples(value, num_layers)
            if read is None:
                raise InputError("it is not a result of PoLar or Dr.LLM: move it elsewhere.")
            check_model(file, checkpoint, *named_model(value))
        samples, kinds = samples + read, [*kinds, search_kind(value)]
    file_digest = digest(*((str(file.relative_to(folder)), digest_of_file(file)) for file in files))
    claim = most_often_right(folder.name, text, kinds[0], samples, num_layers)
    return dataclasses.replace(claim, digest=file_digest)


def search_kind(value: Any) -> str:
    """Return the kind of a claim whose questions were searched."""
    return "drllm" if is_drllm(value) else "polar"


def most_often_right(
    name: str, text: str, kind: str, samples: Sequence[Sample], num_layers: int
) -> Claim:
    """Return the path but the identity that is right on most questions, the shortest of equals.

    Raises InputError where no other path is right.
    """
    right = Counter(path for sample in samples for path in set(sample.valid))
    right.pop(identity(num_layers), None)
    if not right:
        raise InputError(f"{text} has no right path besides the identity path.")
    path = min(right, key=lambda path: (-right[path], len(path), path))
    note = (
        f"Right on {right[path]} of {len(samples)} questions in the search of {SEARCHES[kind]}, "
        "the most of all paths but the identity path."
    )
    return Claim(name, text, kind, path, note=note)


def digest_of_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(read_bytes(file)).hexdigest()
