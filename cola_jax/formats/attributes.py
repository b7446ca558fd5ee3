"""The attributes of a `config.json`: a row for each, which is read and written."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cola_jax.config import MOST_LAYERS
from cola_jax.errors import InputError, first_line, printed, shorten, shown

# The forward pass of no supported family depends on these.
HARMLESS = {
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "initializer_range", "attention_dropout", "pretraining_tp"),
    *("transformers.js_config", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("unk_token_id", "sep_token_id"),
    *("id2label", "label2id", "problem_type", "task_specific_params", "finetuning_task"),
    *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "tokenizer_class"),
    *("prefix", "is_llama_config", "unsloth_version", "unsloth_fixed", "cache_implementation"),
    # for training
    *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    *("resid_pdrop", "embd_pdrop", "residual_dropout", "init_method"),
    # of SmolVLM's training, and of parts that its text part does not have
    *("neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor"),
    "rys_relayer",  # the path of a model that RYS exported
}
NO_LIMIT = [0.0, {"__float__": "Infinity"}]  # of time steps of Mamba, as transformers writes it

Fields = Mapping[str, Any]  # of `ModelConfig.fields`, those of layers of kind 1 as "head_dim.1"
Conversion = Callable[[Any, Fields], Any]  # of a value, with the fields that are known


def unchanged(value: Any, fields: Fields) -> Any:
    """Return a value as it is."""
    return value


class Attribute(NamedTuple):
    """An attribute: our field, their name, and the conversion in both directions.

    An attribute without a field is checked or ignored. A row without their name has no attribute of
    its own: it reads that of another row, or is a fact of the family. Rows are read in order, and a
    later row may replace a field.
    """

    ours: str  # several names with spaces between them have the same value
    theirs: str
    read: Conversion | None = unchanged  # None: it is not read
    write: Conversion | None = unchanged  # None: it is not written
    default: Any = None  # theirs, where a config lacks the attribute or a model the field
    only: tuple[Any, ...] = ()  # the values that are supported, where they are few
    place: str = ""  # where transformers keeps it, if not under its name: "rope_parameters.factor"


Attributes = tuple[Attribute, ...]


def extend(*parts: Attributes | Attribute, **facts: Any) -> Attributes:
    """Join tables and rows in order; a row replaces those of the same name before it.

    Facts are the last rows: a value, or a function of the fields.
    """
    rows = [row for part in parts for row in ([part] if isinstance(part, Attribute) else part)]
    last = {row.theirs: i for i, row in enumerate(rows)}
    joined = (row for i, row in enumerate(rows) if not row.theirs or last[row.theirs] == i)
    return (*joined, *(fact(name, value) for name, value in facts.items()))


def fact(name: str, value: Any) -> Attribute:
    """Return the row of a field that no attribute sets; functions get the fields."""
    return Attribute(name, "", lambda _, fields: value(fields) if callable(value) else value)


def renamed(**names: str) -> Attributes:
    """Return rows of attributes that are fields of another name."""
    return tuple(Attribute(ours, theirs) for ours, theirs in names.items())


def of_kind(kind: int, *parts: Attributes | Attribute, **facts: Any) -> Attributes:
    """Return rows about the layers of a kind, as `extend`; None is as the model's own."""
    rows = extend(*parts, **facts)
    return tuple(row._replace(ours=f"{row.ours}.{kind}") for row in rows)


def ignored(*names: str) -> Attributes:
    """Return rows of attributes without effect, or from which transformers derives others."""
    return tuple(Attribute("", name, read=None, write=None) for name in names)


def required(**values: Any) -> Attributes:
    """Return rows of attributes that would change the forward pass at any other value."""
    return tuple(
        Attribute("", name, write=None, default=value, only=(value,))
        for name, value in values.items()
    )


def written(**values: Any) -> Attributes:
    """Return rows as `required`, of attributes that are written as well."""
    return tuple(row._replace(write=unchanged) for row in required(**values))


def each_layer(values: Mapping[Any, Any]) -> tuple[Conversion, Conversion]:
    """Return the conversions of a list with a value for each layer, ours by theirs."""
    theirs = {ours: value for value, ours in values.items()}

    def read(given: list[Any], fields: Fields) -> tuple[Any, ...]:
        if unknown := {*given} - values.keys():
            raise InputError(f"layers have types {shown(sorted(unknown))}: not supported.")
        return tuple(values[value] for value in given[: fields["num_layers"]])

    return read, lambda given, fields: [theirs[value] for value in given]


def read_attributes(model_type: str, table: Attributes, values: Mapping[str, Any]) -> dict:
    """Read the fields that a config sets, with those of other kinds of layers under `kinds`.

    transformers checks the types of attributes and sets those that are missing. Raises InputError
    for attributes that no row has, or that have an unsupported value.
    """
    theirs = load_config(model_type, values)
    check_supported(table, theirs, without_harmless(values))
    fields: dict[str, Any] = {}
    for row in table:
        if row.read is not None:
            value = row.read(find(theirs, row), fields)
            fields |= dict.fromkeys(row.ours.split(), value)
    return join_kinds(fields)


def without_harmless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that may matter; those with an underscore are private."""
    return {
        name: value
        for name, value in values.items()
        if name not in HARMLESS and not name.startswith("_") and value != NO_LIMIT
    }


def load_config(model_type: str, values: Mapping[str, Any]) -> Any:
    """Return a config of transformers."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    layers = values.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:  # transformers lists their types
        raise InputError(f"num_hidden_layers must be at most {MOST_LAYERS:,}, got {layers}.")
    try:
        return AutoConfig.for_model(model_type, **copy.deepcopy(without_harmless(values)))
    except StrictDataclassError as error:
        raise InputError(f"{first_line(error.__cause__ or error)}.") from error


def find(theirs: Any, row: Attribute) -> Any:
    """Return the value of an attribute in a config of transformers, or the row's default."""
    from transformers import PreTrainedConfig

    for name in (row.place or row.theirs).split("."):
        if isinstance(theirs, PreTrainedConfig):
            theirs = getattr(theirs, name, None)
        elif isinstance(theirs, Mapping):
            theirs = theirs.get(name)
        elif theirs is not None:
            theirs = theirs[name]  # the config of the layers of a type
    return row.default if theirs is None else theirs


def check_supported(table: Attributes, theirs: Any, values: Mapping[str, Any]) -> None:
    """Raise InputError for attributes that no row has, or that have an unsupported value."""
    known = {name for row in table for name in (row.theirs, row.place.partition(".")[0])}
    problems = {name: shown(values[name]) for name in values.keys() - known}
    for row in table:
        if row.only and (value := find(theirs, row)) not in row.only:
            supported = ", ".join(map(shown, row.only))
            problems[row.place or row.theirs] = f"{shown(value)} (supported: {supported})"
    if problems:
        listed = shorten([f"{printed(name)} = {x}" for name, x in sorted(problems.items())])
        raise InputError(
            f"it has attributes that this converter does not handle: {listed}. The converted model "
            "could be silently wrong, so nothing was converted; convert/README.md shows how to add "
            "support."
        )


def join_kinds(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config, those such as "head_dim.1" in a dictionary for each kind."""
    joined = {name: value for name, value in fields.items() if "." not in name}
    kinds: dict[int, dict[str, Any]] = {}
    for name, value in fields.items():
        field, _, kind = name.partition(".")
        if kind and value is not None:
            kinds.setdefault(int(kind), {})[field] = value
    if "kinds" not in joined:
        joined["kinds"] = tuple(kinds[kind] for kind in sorted(kinds))
    if not joined["kinds"]:
        joined.pop("layer_kinds", None)
    return joined


def write_attributes(table: Attributes, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a config with these fields: the inverse of `read_attributes`."""
    known = {**fields, "layer_kinds": fields["layer_kinds"] or (0,) * fields["num_layers"]}
    for number, kind in enumerate(fields["kinds"], 1):
        known |= {f"{name}.{number}": value for name, value in {**fields, **kind}.items()}
    values = {}
    for row in table:
        if row.theirs and row.write is not None:
            value = known.get(row.ours.partition(" ")[0])
            values[row.theirs] = row.default if value is None else row.write(value, known)
    return values
