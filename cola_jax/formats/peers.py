"""Files of other projects that search or publish paths: PoLar, Dr.LLM, RYS and mergekit.

The layouts are those of tianyi-lab/PoLar 30d0efd (`polar/data.py`), parameterlab/dr-llm 14e8837
(`data_generation.py`, `train.py`), dnhkng/RYS 3e75aca (`src/core/layer_config.py`) and
arcee-ai/mergekit a6e4028 (`mergekit/config.py`); peers.md says what is lost between them and ours.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
)

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import parse_yaml, read_text
from cola_jax.path import STOP, Ids, ascending_ranges, format_path, parse_path, validate

Layer = Annotated[int, Field(strict=True, ge=0)]
Path = Annotated[tuple[Layer, ...], Field(min_length=1)]
Label = StrictStr | StrictInt | StrictFloat
Right = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda score: score == 1)]
PATH = TypeAdapter(Path)

MERGE = re.compile(r"^(?:merge_method|slices|models|modules)\s*:", re.MULTILINE)
FORMATS = (
    "lines of paths such as 0-5,7,7,8-29; PoLar's samples; Dr.LLM's results; RYS's blocks, queue "
    "or manifest; a mergekit configuration"
)
VALID, INVALID = "final_valid_transitions", "final_invalid_transitions"
UNANSWERABLE = "unanswerable"  # gold of a question of SQuAD 2 without answers
MOST_RUNS = 2  # of a layer, in Dr.LLM's labels

# RYS: a pair is a block there, and a path of two layers in ours
PAIR = r"\s*[0-9]{1,9}\s*,\s*[0-9]{1,9}\s*"
BARE = re.compile(PAIR)
BLOCK = re.compile(rf"\(({PAIR})\)|{PAIR}")
BLOCKS, LAYERS = "blocks:", "layers:"
MARK = re.compile(rf"\s*(?:{BLOCKS}.*|{LAYERS}.*|\({PAIR}\)\s*|.*;.*)", re.IGNORECASE)
LISTS, SPECS = ("layers", "layer_indices"), ("blocks", "key", "spec")  # of an entry, in RYS's order
MANIFEST, MODEL = "layer_indices", "rys_relayer"

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Searched:
    """The results of a search for one question."""

    question: str
    gold: str  # its correct answer: a letter of the options in the question, or text
    correct_paths: tuple[tuple[int, ...], ...]
    wrong_paths: tuple[tuple[int, ...], ...]
    baseline_right: bool | None  # of the pretrained model; None where it is not known

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """All paths, the correct ones first."""
        return self.correct_paths + self.wrong_paths


def read_paths(
    file: FilePath, num_layers: int, max_length: int | None = None
) -> list[tuple[int, ...]]:
    """Read the paths of a file of any format, each once, in order; of PoLar, the right ones first.

    Args:
      file: its format is recognised by its content.
      num_layers: of the model; a file of a model of other layers is refused where it shows.
      max_length: of a path, in layers; 2 * num_layers if None.

    Raises:
      InputError: for what cannot be read or is not a path of the model, with the entry.
    """
    text = read_text(file)
    limit = 2 * num_layers if max_length is None else max_length
    with reading(file):
        if text.lstrip()[:1] in ("[", "{"):
            paths = json_paths(parse_json(text), num_layers, limit)
        elif MERGE.search(text):
            paths = [merge_path(parse_yaml(text, file), num_layers)]
        else:
            paths = line_paths(file, text.splitlines(), num_layers, limit)
        if not paths:
            raise InputError("the file has no path.")
        return list(dict.fromkeys(validate(path, num_layers, limit) for path in paths))


def read_searched(file: FilePath, num_layers: int | None = None) -> list[Searched]:
    """Read the questions of PoLar's samples or Dr.LLM's results.

    Args:
      file: its format is recognised by its content.
      num_layers: of the model that the paths are for, which must fit; None takes any.

    Raises:
      InputError: for other files, with the entry and the rule.
    """
    text = read_text(file)
    with reading(file):
        return json_searched(parse_json(text), num_layers)


def parse_json(text: str) -> Any:
    """Parse JSON, which may have NaN, without the fields that are null."""
    return json.loads(text, object_pairs_hook=without_nulls)


def without_nulls(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object that have a value."""
    return {name: value for name, value in pairs if value is not None}


def json_paths(content: Any, num_layers: int, limit: int) -> list[tuple[int, ...]]:
    """Return the paths of JSON, of searched questions those found right first."""
    if isinstance(content, dict) and "merge_method" in content:
        return [merge_path(content, num_layers)]
    if is_polar(content) or is_drllm(content):
        searched = json_searched(content, num_layers)
        right = [path for question in searched for path in question.correct_paths]
        return right + [path for question in searched for path in question.wrong_paths]
    if isinstance(content, dict) and (MODEL in content or MANIFEST in content):
        manifest = Manifest.model_validate(content.get(MODEL, content))
        check_same_model(manifest.source_num_layers, num_layers)
        return [manifest.layer_indices]
    if is_rys(content):
        paths = []
        for number, entry in enumerate(content):
            with reading(f"entry {number}"):
                paths.append(rys_path(entry, num_layers, limit))
        return paths
    raise InputError(f"its format is unknown. Known are {FORMATS}.")


def line_paths(
    file: FilePath, lines: Sequence[str], num_layers: int, limit: int
) -> list[tuple[int, ...]]:
    """Read paths or configurations of RYS, one on each line; # starts a comment."""
    bodies = [line.split("#")[0].strip() for line in lines]
    filled = [body for body in bodies if body]
    is_rys = any(MARK.fullmatch(body) for body in filled)
    if filled and not is_rys and all(BARE.fullmatch(body) for body in filled):
        first, last = (number.strip() for number in filled[0].split(","))
        raise InputError(
            f"it has only pairs such as {filled[0]!r}, a path of two layers here but a block "
            f"that runs twice in RYS: write ({first},{last}) for the block, or "
            f"{first}-{first},{last} for the path."
        )
    paths = []
    for number, body in enumerate(bodies, start=1):
        if body:
            with reading(f"{file}:{number}"):
                read = rys_path if is_rys else parse_path
                paths.append(read(body, num_layers, limit))
    return paths


def json_searched(content: Any, num_layers: int | None) -> list[Searched]:
    """Return the questions of JSON, whose paths fit the model."""
    if is_drllm(content):
        searched = list(drllm_questions(Results.model_validate(content)))
        recorded = content.get("num_layers")
    elif is_polar(content):
        keyed = isinstance(content, dict) and "samples" in content
        recorded = content.get("num_layers") if keyed else None
        samples = Samples.model_validate({"samples": content["samples"] if keyed else content})
        searched = [sample.searched() for sample in samples.samples]
    else:
        raise InputError("it is in neither of the formats of PoLar and Dr.LLM.")
    if recorded is not None:
        check_same_model(recorded, num_layers)
        num_layers = recorded
    if num_layers is not None:
        for number, question in enumerate(searched, start=1):
            with reading(f"question {number}"):
                for path in question.paths:
                    validate(path, num_layers)
    return searched


def check_same_model(recorded: Any, num_layers: int | None) -> None:
    """Raise InputError where a file is of a model of other layers."""
    if recorded is not None and num_layers is not None and recorded != num_layers:
        raise InputError(
            f"its paths are of a model of {shown(recorded)} layers, but the model has {num_layers}."
        )


def transition(value: Any) -> Any:
    """Return the path of `{"path": [...]}`."""
    return value["path"] if isinstance(value, dict) and "path" in value else value


Transition = Annotated[Path, BeforeValidator(transition)]


def places(*names: str) -> AliasChoices:
    """Return the places where PoLar's loader looks, in order; a dot is a mapping."""
    return AliasChoices(*(AliasPath(*name.split(".")) for name in names))


class Sample(BaseModel):
    """A question of PoLar."""

    question: StrictStr = Field(validation_alias=places("question", "sample_info.question"))
    gold: Label = Field(
        validation_alias=places(
            *("gt_ans", "ground_truth", "answer", "sample_info.ground_truth", "sample_info.answer")
        )
    )
    score: Right | None = Field(
        None,
        validation_alias=places(
            *("initial_transition_metric", "initial_score", "evaluation_result.initial_score")
        ),
    )
    valid: list[Annotated[Path, BeforeValidator(transition)]] = Field(validation_alias=VALID)
    invalid: list[Annotated[Path, BeforeValidator(transition)]] = Field(
        [], validation_alias=INVALID
    )

    def searched(self) -> Searched:
        """Return the question with each path once."""
        valid = dict.fromkeys(self.valid)
        wrong = tuple(path for path in dict.fromkeys(self.invalid) if path not in valid)
        right = None if self.score is None else bool(self.score)
        return Searched(self.question, str(self.gold), tuple(valid), wrong, right)


class Samples(BaseModel):
    """Samples of PoLar: a list, or the values of a mapping."""

    samples: Annotated[
        list[Sample], BeforeValidator(lambda x: list(x.values()) if isinstance(x, dict) else x)
    ]


def is_polar(content: Any) -> bool:
    """Say whether JSON has PoLar's layout."""
    if isinstance(content, dict) and "samples" in content:
        return True
    entries = content.values() if isinstance(content, dict) else content
    return any(isinstance(entry, dict) and VALID in entry for entry in entries)


def polar_samples(searched: Sequence[Searched], num_layers: int) -> dict[str, Any]:
    """Make the content of `merged_mcts_samples.json`, for a model of `num_layers` layers.

    A baseline that is not known is left out, which their loader takes for wrong.
    """
    samples = []
    for question in searched:
        right = question.baseline_right
        samples.append(
            {
                "question": question.question,
                "gt_ans": question.gold,
                **({} if right is None else {"initial_score": float(right)}),
                VALID: [list(path) for path in question.correct_paths],
                INVALID: [list(path) for path in question.wrong_paths],
            }
        )
    return {"num_layers": num_layers, "samples": samples}


def squad_gold(value: Any) -> Any:
    """Return the first of the answers of SQuAD, `{"text": [answers]}`."""
    if isinstance(value, dict) and isinstance(answers := value.get("text"), list):
        return answers[0] if answers else UNANSWERABLE
    return value


class Results(BaseModel):
    """A result file of Dr.LLM: entry i of each list is about question i.

    Its paths are lists of layer ids; the vectors of 0, 1 and 2 of which its README speaks are made
    from `best_path` in training, as the number of runs of each layer.
    """

    questions: list[StrictStr]
    best_response: list[Annotated[Label, BeforeValidator(squad_gold)]]
    best_path: list[Path]
    good_paths: list[list[Path]]
    original_correct: list[Right]
    mcts_correct: list[Right]


def is_drllm(content: Any) -> bool:
    """Say whether JSON has Dr.LLM's layout."""
    return isinstance(content, dict) and "questions" in content and "best_path" in content


def drllm_questions(results: Results) -> Iterator[Searched]:
    """Yield the questions; the only wrong path is the default one of those that stayed wrong."""
    for name, column in results:
        if len(column) != (count := len(results.questions)):
            raise InputError(f"{name} has {len(column)} entries for {count} questions.")
    for question, gold, best, good, before, solved in zip(*dict(results).values(), strict=True):
        if good and not solved:
            raise InputError(f"question {shown(question)} has good_paths, but mcts_correct is 0.")
        correct = tuple(dict.fromkeys([*good, best])) if solved else ()
        yield Searched(question, str(gold), correct, () if solved else (best,), bool(before))


def drllm_results(
    searched: Sequence[Searched], num_layers: int, model_name: str, dataset: str, simulations: int
) -> dict[str, Any]:
    """Make the content of a result file, such as `data/train/arc_easy_results_DATE.json`.

    Only questions that its labels can express are written, as training takes the label for the
    result: those with a right path that keeps the order of layers and runs none of them more
    than twice. The shortest such path is the best one.

    Args:
      searched: the questions.
      num_layers: of the model.
      model_name: as `train.py --model_id` will name it; other files are passed over.
      dataset: the name of the task.
      simulations: evaluations per question.
    """
    kept = [(question, best) for question in searched if (best := best_path(question)) is not None]
    before = [int(bool(question.baseline_right)) for question, _ in kept]
    lengths = [len(best) for _, best in kept]
    unique = [len(set(best)) for _, best in kept]
    return {
        "exp": "cola-jax",
        "model_name": model_name,
        "num_layers": num_layers,
        "dataset": dataset,
        "num_simulations": simulations,
        "num_samples": len(kept),
        "visited_samples": len(searched),
        "original_accuracy": 100 * mean(before),
        "mcts_accuracy": 100 * mean([1] * len(kept)),
        "improved_cases_accuracy": 100 * mean([1 - right for right in before]),
        "average_path_length": mean(lengths),
        "average_unique_layers": mean(unique),
        "original_correct": before,
        "mcts_correct": [1] * len(kept),
        "improved_cases": [not right for right in before],
        "path_lengths": lengths,
        "unique_layers": unique,
        "best_path": [list(best) for _, best in kept],
        "good_paths": [[list(path) for path in question.correct_paths] for question, _ in kept],
        "best_response": [question.gold for question, _ in kept],
        "questions": [question.question for question, _ in kept],
    }


def mean(values: Sequence[int]) -> float:
    """Return the mean, 0 of nothing."""
    return sum(values) / max(1, len(values))


def best_path(question: Searched) -> tuple[int, ...] | None:
    """Return the shortest right path that the labels skip, execute and repeat express.

    Of the same length, the one with fewer different layers, as Dr.LLM does.
    """
    paths = filter(is_label, question.correct_paths)
    return min(paths, key=lambda path: (len(path), len(set(path))), default=None)


def is_label(path: tuple[int, ...]) -> bool:
    """Say whether counting the runs of each layer loses nothing."""
    return list(path) == sorted(path) and max(map(path.count, path)) <= MOST_RUNS


class Manifest(BaseModel):
    """The manifest of a model that RYS exported, also in its `config.json`."""

    layer_indices: Path
    source_num_layers: StrictInt | None = None


def is_rys(content: Any) -> bool:
    """Say whether JSON is a list of configurations of RYS."""
    return isinstance(content, list) and all(
        isinstance(entry, list | str)
        or (isinstance(entry, dict) and any(name in entry for name in (*LISTS, *SPECS)))
        for entry in content
    )


def rys_path(entry: Any, num_layers: int, limit: int) -> tuple[int, ...]:
    """Return the path of a pair, a list of layer ids, a line, or an entry of a queue."""
    if isinstance(entry, dict):
        name = next(name for name in (*LISTS, *SPECS) if name in entry)
        if name in LISTS:
            return PATH.validate_python(entry[name])
        entry = entry[name]
    if isinstance(entry, list):
        path = PATH.validate_python(entry)
        return with_blocks([path], num_layers, limit) if len(path) == 2 else path
    text = str(entry).strip()
    if text.lower().startswith(LAYERS):
        return PATH.validate_python([int(number) for number in text[len(LAYERS) :].split(",")])
    text = text[len(BLOCKS) :] if text.lower().startswith(BLOCKS) else text
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if not parts or not all(BLOCK.fullmatch(part) for part in parts):
        raise InputError(
            f"{shown(entry)} is not a configuration of RYS, such as (30, 34), blocks:31,34;43,45 "
            "or layers:0,1,2,2,3."
        )
    blocks = [[int(number) for number in part.strip("()").split(",")] for part in parts]
    return with_blocks(blocks, num_layers, limit)


def with_blocks(blocks: Sequence[Sequence[int]], num_layers: int, limit: int) -> tuple[int, ...]:
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


class Strict(BaseModel):
    """Fields of a merge; others may change more than which layers run in what order."""

    model_config = ConfigDict(extra="forbid")


class MergeSource(Strict):
    """Layers [start, end) of a model."""

    model: Any
    layer_range: tuple[Layer, Layer]


class Slice(Strict):
    """One part of a merge; passthrough takes exactly one source."""

    sources: tuple[MergeSource]
    base_model: Any = None


class Module(Strict):
    """The one module as which mergekit itself writes the slices."""

    slices: list[Slice] = Field(min_length=1)


class Merge(Strict):
    """A passthrough merge; the fields without a type change neither layers nor weights."""

    merge_method: Literal["passthrough"]
    slices: list[Slice] | None = Field(None, min_length=1)
    modules: dict[str, Module] | None = Field(None, min_length=1, max_length=1)
    base_model: Any = None
    dtype: Any = None
    out_dtype: Any = None
    tokenizer_source: Any = None
    chat_template: Any = None


def merge_path(content: Any, num_layers: int) -> tuple[int, ...]:
    """Return the path of a passthrough merge of one model; InputError for other merges."""
    with reading("the merge", "A path is a passthrough merge that stacks layers of one model."):
        merge = Merge.model_validate(content)
        modules = list((merge.modules or {}).values())
        if (merge.slices is None) == (not modules):
            raise InputError("it must have slices, or one module with slices")
        slices = merge.slices or modules[0].slices
        models = [base for part in (merge, *slices) if (base := part.base_model) is not None]
        models += [part.sources[0].model for part in slices]
        if any(model != models[0] for model in models):
            raise InputError(f"it has several models, {shown(models)}")
        path: list[int] = []
        for start, end in (part.sources[0].layer_range for part in slices):
            if not start < end <= num_layers:
                raise InputError(
                    f"layer_range [{start}, {end}] must have start < end <= {num_layers}, the "
                    "number of layers"
                )
            path += range(start, end)
        return tuple(path)


def mergekit_config(path: Ids, model_name: str, dtype: str | None = None) -> str:
    """Write a path of a model as the YAML of a passthrough merge, for `mergekit-yaml`.

    Args:
      path: layer ids in order; padding is ignored.
      model_name: a Hub id, with @revision if one is meant, or a local directory.
      dtype: of the merged model, float32, bfloat16 or float16; the model's own if None.

    Raises:
      InputError: for a path without layers, and names that mergekit would misread.
    """
    if not model_name.strip() or "+" in model_name or model_name.count("@") > 1:
        raise InputError(
            f"mergekit cannot use the model name {model_name!r}: give one that is not empty, "
            "without + (a LoRA) and with at most one @revision."
        )
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    layers = [int(layer) for layer in path if layer != STOP]
    slices = [
        {"sources": [{"model": model_name, "layer_range": [run.start, run.stop]}]}
        for run in ascending_ranges(validate(layers, max([0, *layers]) + 1))
    ]
    config: dict[str, Any] = {"merge_method": "passthrough", "slices": slices}
    if dtype is not None:
        config["dtype"] = dtype
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return f"# the path {format_path(path)}\n{text}"
