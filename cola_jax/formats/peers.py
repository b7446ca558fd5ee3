"""Read paths of PoLar, Dr.LLM, RYS, EvoPress, SWIFT and mergekit, and write those of mergekit.

The layouts are those of tianyi-lab/PoLar 30d0efd (`polar/data.py`), parameterlab/dr-llm 14e8837
(`data_generation.py`, `train.py`), dnhkng/RYS 3e75aca (`src/core/layer_config.py`),
IST-DASLab/EvoPress 50888a0 (`evo_drop_search.py`), dilab-zju/self-speculative-decoding 688db8b and
hemingkx/SWIFT 88caed7 (`skip_layers.json`) and arcee-ai/mergekit a6e4028 (`mergekit/config.py`);
peers.md lists the differences from ours.
"""

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import parse_yaml, read_text
from cola_jax.formats.identity import Identity, named_model
from cola_jax.path import (
    STOP,
    Ids,
    LayerPath,
    ascending_ranges,
    format_path,
    parse_path,
    path_of_parts,
    validate,
)
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, layer_of, missing_part

LayerId = Annotated[int, Field(strict=True, ge=0)]
PathIds = Annotated[tuple[LayerId, ...], Field(min_length=1)]
PATHS = TypeAdapter(list[PathIds])
MERGE = re.compile(r"^(?:merge_method|slices|models|modules)\s*:", re.MULTILINE)
# RYS, without spaces: a pair is a block there, and a path of two layers in ours
PAIR = r"[0-9]+,[0-9]+"
BLOCK = rf"(?:\({PAIR}\)|{PAIR})"
BLOCKS = re.compile(rf"(?:blocks:)?{BLOCK}(?:;+{BLOCK})*;*")
RYS_LINE = re.compile(rf"blocks:.*|\({PAIR}\)|.*;.*")
EVOPRESS = {"none", "attn", "mlp", "attn+mlp"}  # lost parts of a layer, one a line
LOOP_RULE = (
    "A loop runs each layer of a window count times, and adds a share of its update each time: "
    "frozen routing, gates of tokens, interpolated states or norms and shared caches are no steps "
    "of a path."
)
MERGE_RULE = "A path is a passthrough merge that stacks layers of one model."
# the last names of the modules that end each part, of all families
PROJECTIONS = {
    ATTENTION: ("o_proj", "out_proj"),
    MLP: ("down_proj", "c_proj", "w2", "output_linear"),
}
VALID = "final_valid_transitions"
INVALID = "final_invalid_transitions"
COLUMNS = ("best_path", "good_paths", "mcts_correct")  # of Dr.LLM, a list each


def transition(value: Any) -> Any:
    """Return the path of `{"path": [...]}`."""
    return value["path"] if isinstance(value, dict) and "path" in value else value


Transitions = list[Annotated[PathIds, BeforeValidator(transition)]]


class Sample(BaseModel):
    """The paths of a question in PoLar's samples."""

    valid: Transitions = Field(alias=VALID)
    invalid: Transitions = Field([], alias=INVALID)


SAMPLES = TypeAdapter(list[Sample])


def read_paths(
    file: Path,
    num_layers: int,
    max_length: int | None = None,
    model: Identity | None = None,
) -> list[LayerPath]:
    """Read the paths of a file of any format, each once, in order; of PoLar, the right ones first.

    The format is recognised by the content. Paths have at most `max_length` layers, by default
    2 * num_layers. Raises InputError for an unreadable file, for other than paths of the model,
    with the entry, and for a file that names another model than `model`.
    """
    text = read_text(file)
    limit = 2 * num_layers if max_length is None else max_length
    with reading(file):
        if text.lstrip()[:1] in ("[", "{"):
            content = parse_without_nulls(text)
            paths = json_paths(content, num_layers, limit)
            named = named_model(content)
        elif MERGE.search(text):
            content = parse_yaml(text, file)
            paths = [merge_path(content, num_layers)]
            named = (merge_model(content),)
        else:
            paths = line_paths(file, text.splitlines(), num_layers, limit)
            named = (None,)
        if not paths:
            raise InputError("the file has no path.")
        if model is not None:
            model.check(file, *named)
        return list(dict.fromkeys(validate(path, num_layers, limit) for path in paths))


def parse_without_nulls(text: str) -> Any:
    """Parse JSON, which may have NaN, without the fields that are null."""

    def without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if value is not None}

    return json.loads(text, object_pairs_hook=without_nulls)


def json_paths(content: Any, num_layers: int, limit: int) -> list[LayerPath]:
    """Return the paths of JSON, of searched questions those found right first."""
    samples = read_samples(content, num_layers)
    if samples is not None:
        right = [path for sample in samples for path in sample.valid]
        return right + [path for sample in samples for path in sample.invalid]
    if isinstance(content, dict) and isinstance(content.get("path"), str):  # path.json
        return [parse_path(content["path"], num_layers, limit)]
    if isinstance(content, dict) and "window" in content:
        return [loop_path(content, num_layers)]
    if isinstance(content, dict) and (sets := skip_sets(content)):
        return [
            path_without(each.attention, each.mlp, num_layers)
            for each in TypeAdapter(list[SkipSets]).validate_python(sets)
        ]
    if isinstance(content, dict):
        raise InputError(
            "its format is unknown. Known are lines of paths such as 0-5,7,7,8-29, of blocks such "
            "as (30,34) of RYS or of EvoPress, a JSON list of paths and blocks, a mergekit "
            "configuration, PoLar's samples, Dr.LLM's results, skipped layers of SWIFT, and a loop "
            'such as {"window": [8, 11], "mode": "layer", "count": 2, "share": 0.5}.'
        )
    paths = PATHS.validate_python(content)
    for path in paths:
        if len(path) != 2:
            check_layers(path, num_layers)
    return [with_blocks([path], num_layers, limit) if len(path) == 2 else path for path in paths]


def check_layers(path: Sequence[int], num_layers: int) -> None:
    """Raise InputError for other than layers: larger ids of a file are no steps, but mistakes."""
    if outside := sorted({layer for layer in path if layer >= num_layers}):
        raise InputError(
            f"path has layer ids {shown(outside)}, but the model has layers 0..{num_layers - 1}: "
            f"{shown(path)}. Parts and shares are for paths as text, such as 0-5,7*0.5,8a."
        )


class SkipSets(BaseModel, extra="forbid"):
    """The layers of a draft whose attention or MLP is skipped, of SWIFT or Draft & Verify."""

    attention: list[LayerId]
    mlp: list[LayerId]


def skip_sets(content: Mapping[str, Any]) -> list[Any]:
    """Return the sets of skipped layers in JSON, one or several by name; none in other JSON."""
    sets = [content] if "attention" in content else list(content.values())
    is_known = all(isinstance(each, dict) and {"attention", "mlp"} <= each.keys() for each in sets)
    return sets if is_known else []


def path_without(attention: Collection[int], mlp: Collection[int], num_layers: int) -> LayerPath:
    """Return the path that leaves out the attention of some layers and the MLP of some."""
    for name, layers in (("attention", attention), ("mlp", mlp)):
        if outside := sorted(layer for layer in layers if layer >= num_layers):
            raise InputError(
                f"it skips the {name} of layers {outside}, but the model has layers 0.."
                f"{num_layers - 1}."
            )
    layers = {*range(num_layers)}
    return validate(path_of_parts(layers.difference(attention), layers.difference(mlp)), num_layers)


def evopress_path(words: Sequence[str], num_layers: int) -> LayerPath:
    """Return the path of a configuration of EvoPress: what each layer loses, in order."""
    if len(words) != num_layers:
        raise InputError(
            f"its {len(words)} lines are of a model of as many layers, but the model has "
            f"{num_layers}."
        )
    attention = {layer for layer, word in enumerate(words) if "attn" in word}
    mlp = {layer for layer, word in enumerate(words) if "mlp" in word}
    return path_without(attention, mlp, num_layers)


class Loop(BaseModel, extra="forbid"):
    """A window of layers that run several times, with a share of each update."""

    window: tuple[LayerId, LayerId]  # the first and the last layer
    count: Annotated[int, Field(strict=True, ge=1, le=1_000)]
    share: Annotated[float, Field(strict=True)] | None = (
        None  # None: 1 / count, so that the loop adds as much as the window
    )
    mode: Literal["layer", "block"] | None = None  # what is repeated: each layer, or the window


def loop_path(content: Any, num_layers: int) -> LayerPath:
    """Return the path of a loop; InputError where it means something else than steps of a path."""
    with reading("the loop", LOOP_RULE):
        loop = Loop.model_validate(content)
        first, last = loop.window
        if not first <= last < num_layers:
            raise InputError(
                f"its window [{first}, {last}] must have first <= last < {num_layers}, the number "
                "of layers"
            )
        share = round(1 / loop.count, 3) if loop.share is None else loop.share
        window = range(first, last + 1)
        if len(window) > 1 and loop.mode is None:
            raise InputError(
                "its window has several layers: give the mode layer, in which each runs count "
                "times in turn, or block, in which all of them do"
            )
        if len(window) > 1 and loop.mode == "block" and share != 1:
            raise InputError(
                f"its share {share:g} is of what a block of {len(window)} layers adds together, "
                "h + s (block(h) - h), and a step adds a share of one layer: give the mode layer, "
                "a window of one layer, or the share 1"
            )
        body = [Step(layer, WHOLE, share).id for layer in window]
        if loop.mode == "block":
            looped = body * loop.count
        else:
            looped = [step for step in body for _ in range(loop.count)]
        return (*range(first), *looped, *range(last + 1, num_layers))


def read_samples(content: Any, num_layers: int) -> list[Sample] | None:
    """Read the searched questions of PoLar's samples or Dr.LLM's results; None for other JSON.

    Raises InputError for paths of other than the model, with the question.
    """
    values = content if isinstance(content, dict) else {}
    samples = values.get("samples", content)
    entries = list(samples.values()) if isinstance(samples, dict) else samples
    if is_drllm(content):
        entries = list(drllm_samples(values))
    elif not ("samples" in values or any(isinstance(x, dict) and VALID in x for x in entries)):
        return None
    if values.get("num_layers", num_layers) != num_layers:
        raise InputError(
            f"its paths are of a model of {shown(values['num_layers'])} layers, but the model has "
            f"{num_layers}."
        )
    read = SAMPLES.validate_python(entries)
    for number, sample in enumerate(read, start=1):
        with reading(f"question {number}"):
            for path in sample.valid + sample.invalid:
                check_layers(path, num_layers)
    return read


def is_drllm(content: Any) -> bool:
    """Return whether JSON is a result file of Dr.LLM."""
    return isinstance(content, dict) and {"best_path", "good_paths"} <= content.keys()


def drllm_samples(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the questions of a result file of Dr.LLM, laid out as PoLar's samples.

    Its paths are lists of layer ids; the vectors of 0, 1 and 2 of which its README speaks are made
    from `best_path` in training. The only wrong path is the default one of a question that stayed
    wrong.
    """
    columns = (results[name] for name in COLUMNS)
    for best, good, solved in zip(*columns, strict=True):
        yield {VALID: [*good, best] if solved else [], INVALID: [] if solved else [best]}


def line_paths(file: Path, lines: Sequence[str], num_layers: int, limit: int) -> list[LayerPath]:
    """Read paths, or blocks of RYS, one on each line; # starts a comment.

    Lines of what a layer loses, as EvoPress writes, are one path.
    A range is written 0-5, or 0..5 as `layer_path.py` of alainnothere/llm-circuit-finder does.
    """
    bodies = ["".join(line.partition("#")[0].lower().split()) for line in lines]
    words = [body for body in bodies if body]
    numbered = [(number, body) for number, body in enumerate(bodies, start=1) if body]
    if not EVOPRESS.isdisjoint(words):
        for number, word in numbered:
            with reading(f"{file}:{number}"):
                check_lost(word)
        return [evopress_path(words, num_layers)]
    read = reader_of(words)
    paths = []
    for number, body in numbered:
        with reading(f"{file}:{number}"):
            paths.append(read(body.replace("..", "-"), num_layers, limit))
    return paths


def check_lost(word: str) -> None:
    """Raise InputError for other than what a layer loses in a configuration of EvoPress."""
    if word not in EVOPRESS:
        raise InputError(
            f"{shown(word)} is not what a layer loses: each line of a configuration of EvoPress "
            f"is one of {', '.join(sorted(EVOPRESS))}."
        )


def reader_of(bodies: Sequence[str]) -> Callable[[str, int, int], LayerPath]:
    """Return the function that reads lines without spaces: `rys_path` where any is only RYS's.

    Raises InputError for nothing but pairs, which both read.
    """
    if any(RYS_LINE.fullmatch(body) for body in bodies):
        return rys_path
    if bodies and all(re.fullmatch(PAIR, body) for body in bodies):
        first, last = bodies[0].split(",")
        raise InputError(
            f"it has only pairs such as {bodies[0]!r}, a path of two layers here but a block "
            f"that runs twice in RYS: write ({first},{last}) for the block, or "
            f"{first}-{first},{last} for the path."
        )
    return parse_path


def rys_path(text: str, num_layers: int, limit: int) -> LayerPath:
    """Read blocks of RYS, without spaces."""
    if not BLOCKS.fullmatch(text):
        raise InputError(
            f"{shown(text)} is not a configuration of RYS, such as (30,34) or blocks:31,34;43,45."
        )
    blocks = [[int(layer) for layer in pair.split(",")] for pair in re.findall(PAIR, text)]
    return with_blocks(blocks, num_layers, limit)


def with_blocks(blocks: Sequence[Sequence[int]], num_layers: int, limit: int) -> LayerPath:
    """Return the identity path with blocks (i, j) inserted, so that layers i..j-1 run twice.

    Each one goes after the last run of layer j-1; (0, 0) inserts nothing.
    """
    path = list(range(num_layers))
    for i, j in blocks:
        if (i, j) == (0, 0):
            continue
        if not i < j <= num_layers:
            raise InputError(
                f"a block (i, j) runs layers i..j-1 twice, so i < j <= {num_layers}, the number "
                f"of layers; got ({i}, {j})."
            )
        last = len(path) - path[::-1].index(j - 1)
        path[last:last] = range(i, j)
        if len(path) > limit:
            raise InputError(f"the path has more than {limit} layers.")
    return tuple(path)


class Scale(BaseModel, extra="forbid"):
    """What tensors are multiplied by, all or those with a text in their names."""

    value: float
    filter: str | None = None

    @property
    def part(self) -> int | None:
        """The part whose output the tensors are; None for all."""
        return None if self.filter in (None, "*") else part_of_output(self.filter)


class Parameters(BaseModel, extra="forbid"):
    """The parameters of a source; of several scales the first that fits a tensor counts."""

    scale: list[Scale] = []

    def step(self, layer: int) -> int | None:
        """Return the step that a layer becomes; None where it adds nothing."""
        scales = [scale for scale in self.scale if scale.part is None]
        of_part = {}
        for part in (ATTENTION, MLP):
            fitting = [scale.value for scale in self.scale if scale.part in (None, part)]
            of_part[part] = fitting[0] if fitting else 1.0
        if (scales and scales[0].value != 1) or not {0.0, 1.0}.issuperset(of_part.values()):
            raise InputError(
                f"scale multiplies weights of layer {layer} by other than 0 or 1, for which no "
                "share of its update stands, as the MLP reads the scaled attention. Where no norm "
                f"follows the projections, a path such as {layer}a*0.5,{layer}m*0.5 does the same"
            )
        kept = [part for part, value in of_part.items() if value]
        if not kept:
            return None
        return layer if len(kept) == 2 else Step(layer, kept[0]).id


def part_of_output(name: str) -> int:
    """Return the part that a projection ends; InputError for other names."""
    end = name.rpartition(".")[2]
    for part, names in PROJECTIONS.items():
        if end in names:
            return part
    known = ", ".join(itertools.chain(*PROJECTIONS.values()))
    raise InputError(f"a filter {shown(name)} scales more than the outputs of parts, {known}")


class MergeSource(BaseModel, extra="forbid"):
    """Layers [start, end) of a model."""

    model: Any
    layer_range: tuple[LayerId, LayerId]
    parameters: Parameters = Parameters()


class Slice(BaseModel, extra="forbid"):
    """One part of a merge; passthrough takes exactly one source."""

    sources: tuple[MergeSource]
    base_model: Any = None


Slices = Annotated[list[Slice], Field(min_length=1)]
# the one module as which mergekit itself writes the slices
Modules = Annotated[dict[str, dict[Literal["slices"], Slices]], Field(min_length=1, max_length=1)]


class Merge(BaseModel, extra="forbid"):
    """A passthrough merge; the fields without a type change neither layers nor weights.

    Other fields are refused: they may change more than the order of layers.
    """

    merge_method: Literal["passthrough"]
    slices: Slices | None = None
    modules: Modules | None = None
    base_model: Any = None
    dtype: Any = None
    out_dtype: Any = None
    tokenizer_source: Any = None
    chat_template: Any = None


def merge_path(content: Any, num_layers: int) -> LayerPath:
    """Return the path of a passthrough merge of one model; InputError for other merges."""
    with reading("the merge", MERGE_RULE):
        path: list[int] = []
        for source in merge_sources(content):
            start, end = source.layer_range
            if not start < end <= num_layers:
                raise InputError(
                    f"layer_range [{start}, {end}] must have start < end <= {num_layers}, the "
                    "number of layers"
                )
            steps = map(source.parameters.step, range(start, end))
            path += [step for step in steps if step is not None]
        return tuple(path)


def merge_sources(content: Any) -> list[MergeSource]:
    """Return the slices of a passthrough merge, all of one model; errors as `merge_path`."""
    merge = Merge.model_validate(content)
    parts = [module["slices"] for module in (merge.modules or {}).values()]
    parts += [] if merge.slices is None else [merge.slices]
    if len(parts) != 1:
        raise InputError("it must have slices, or one module with slices")
    sources = [part.sources[0] for part in parts[0]]
    bases = [part.base_model for part in (merge, *parts[0]) if part.base_model is not None]
    models = bases + [source.model for source in sources]
    if any(model != models[0] for model in models):
        raise InputError(f"it has several models, {shown(models)}")
    return sources


def merge_model(content: Any) -> str:
    """Return the name of the model of a passthrough merge, with @revision if one is meant."""
    model = merge_sources(content)[0].model
    while isinstance(model, dict):  # mergekit's own form of a name
        revision = model.get("revision")
        model = model.get("path", model.get("model"))
        model = f"{model}@{revision}" if revision else model
    return str(model)


def mergekit_config(
    path: Ids, model_name: str, outputs: Mapping[int, Sequence[str]] = MappingProxyType({})
) -> str:
    """Write a path of a model as the YAML of a passthrough merge, for `mergekit-yaml`.

    The model is a Hub id, with @revision if one is meant, or a local directory. `outputs` are the
    names of the projections that end each part of a layer, for paths with parts: those of a missing
    one are scaled to zeros. Raises InputError for a path without layers, and names that mergekit
    would misread.
    """
    if not model_name.strip() or "+" in model_name or model_name.count("@") > 1:
        raise InputError(
            f"mergekit cannot use the model name {model_name!r}: give one that is not empty, "
            "without + (a LoRA) and with at most one @revision."
        )
    steps = [int(step) for step in path if step != STOP]
    slices = []
    for run in ascending_ranges(validate(steps, max([0, *map(layer_of, steps)]) + 1)):
        source: dict[str, Any] = {"model": model_name}
        source["layer_range"] = [layer_of(run[0]), layer_of(run[-1]) + 1]
        if (missing := missing_part(run[0])) is not None:
            zeros = [{"filter": name, "value": 0.0} for name in outputs[missing]]
            source["parameters"] = {"scale": [*zeros, {"value": 1.0}]}
        slices.append({"sources": [source]})
    config = {"merge_method": "passthrough", "slices": slices}
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return f"# the path {format_path(path)}\n{text}"
