"""The configuration of a pretrained model: what it has once, and what layers of each kind have."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from cola_jax.errors import InputError, reading, shown
from cola_jax.steps import MLP, MOST_LAYERS, layer_of, part_of, with_runs

LIMIT = 2**31  # of any other size, as indices have 32 bits
SMALLEST, LARGEST = 1e-30, 1e30  # of numbers that float32 has to hold
STRICT = ConfigDict(strict=True, extra="forbid")

Size = Annotated[int, Field(ge=1, lt=LIMIT)]
Count = Annotated[int, Field(ge=0, lt=LIMIT)]
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
T = TypeVar("T")
# A field that is written at its default too, as the first checkpoints have it. Others with a
# default are written where they differ from it, so that a new field changes no digest.
Written = Annotated[T, "written"]


@dataclass(frozen=True, config=STRICT)
class Rope:
    """A rotary embedding: the base, and how its wavelengths are stretched."""

    theta: Positive
    linear_factor: Written[Positive] = 1.0  # positions are divided by it
    # factor, low, high, original context
    llama3: Written[tuple[Positive, Positive, Positive, Size] | None] = None
    # factor, beta_fast, beta_slow, original context, whether bounds are rounded
    yarn: tuple[Positive, Positive, Positive, Size, bool] | None = None
    # one a frequency: longrope's, or a GGUF file's
    divisors: Written[tuple[Positive, ...] | None] = None
    scale: Positive = 1.0  # of cosines and sines, as yarn and longrope have it
    pairs: Size | None = None  # of channels that rotate, the first ones; None: all of a head
    # of pairs that rotate, as fast as if all did: "proportional" in transformers
    rotated_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0

    def __post_init__(self):
        if self.llama3 is not None and not self.llama3[1] < self.llama3[2]:
            raise InputError(f"llama3 of a rope must have low < high, got {shown(self.llama3)}.")
        if self.yarn is not None and self.theta <= 1:
            raise InputError(f"yarn needs a theta above 1, got {shown(self.theta)}.")

    def frequencies(self, rotary_dim: int) -> np.ndarray:
        """Return the inverse frequencies [rotary_dim / 2] in float32, radians per position.

        Those beyond `pairs` or their share are 0: their channels stay as they are.
        """
        width = rotary_dim if self.pairs is None else 2 * self.pairs
        exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        frequencies = (1.0 / np.float32(self.theta) ** exponents).astype(np.float32)
        frequencies = frequencies / np.float32(self.linear_factor)
        if self.divisors is not None:
            frequencies = frequencies / np.asarray(self.divisors, np.float32)
        if self.llama3 is not None:
            frequencies = blend_bands(frequencies, *self.llama3)
        if self.yarn is not None:
            frequencies = blend_ramp(frequencies, self.theta, *self.yarn)
        frequencies[int(self.rotated_share * width // 2) :] = 0
        return np.pad(frequencies, (0, (rotary_dim - width) // 2))


def blend_bands(
    frequencies: np.ndarray, factor: float, low: float, high: float, original: int
) -> np.ndarray:
    """Stretch long wavelengths, as `_compute_llama3_parameters` in transformers.

    Those beyond the original context / low are divided by the factor, those below the original
    context / high are kept, and those between are blended.
    """
    wavelengths = 2 * math.pi / frequencies
    blend = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return ((1 - blend) * frequencies / factor + blend * frequencies).astype(np.float32)


def blend_ramp(
    frequencies: np.ndarray,
    theta: float,
    factor: float,
    beta_fast: float,
    beta_slow: float,
    original: int,
    rounded: bool,
) -> np.ndarray:
    """Stretch long wavelengths, as `_compute_yarn_parameters` in transformers.

    Frequencies that turn more than beta_fast times within the original context are kept, those
    that turn less than beta_slow times are divided by the factor, and those between are blended by
    their place in the row.
    """
    width = 2 * len(frequencies)
    low, high = (
        width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (beta_fast, beta_slow)
    )
    low, high = (math.floor(low), math.ceil(high)) if rounded else (low, high)
    low, high = max(low, 0), min(high, width - 1)
    span = high - low if high != low else 0.001
    blend = np.clip((np.arange(len(frequencies), dtype=np.float32) - low) / span, 0, 1)
    return (frequencies / factor * blend + frequencies * (1 - blend)).astype(np.float32)


@dataclass(frozen=True, config=STRICT)
class LayerConfig:
    """What layers of a kind have; hashable, so static under jit.

    With a convolution, layers are recurrent in place of attention: `num_kv_heads` key heads of
    `head_dim`, and `num_heads` value heads of `value_dim`.
    """

    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
    mlp_width: Count  # of the MLP, or of the shared expert; 0 where a layer has experts alone
    rotary_dim: Size | None = None  # channels of a head that rotate, the first ones; None: all
    qkv_bias: Written[bool] = False
    output_bias: Written[bool] = False
    mlp_bias: Written[bool] = False
    head_norms: Written[bool] = False  # RMSNorm over each query and key head before the rotation
    # the same, over all query heads and all key heads together
    projection_norms: Written[bool] = False
    value_norms: bool = False  # RMSNorm over each value head, without weights
    pre_norms: Written[bool] = True  # RMSNorm of the inputs of attention and MLP
    post_norms: Written[bool] = False  # RMSNorm of their outputs
    norm_biases: bool = False  # LayerNorm of the inputs: less their mean, and with a bias
    query_scale: Written[Positive] = 1.0  # of queries, besides 1 / sqrt(head_dim)
    # beta, context: queries grow by 1 + beta log(1 + position // context), as in Llama 4
    query_growth: tuple[Positive, Size] | None = None
    residual_scale: Positive = 1.0  # of what attention and MLP add to states
    output_scales: bool = False  # each layer multiplies the state that it returns by a weight
    clip_qkv: Written[Positive | None] = None  # bound of queries, keys and values
    attention_softcap: Positive | None = None  # of scores, which tanh bends into it
    sinks: bool = False  # a score of each head that takes a share of attention for nothing
    activation: Written[Literal["silu", "gelu_tanh", "quick_gelu", "relu"]] = "silu"
    gated_mlp: bool = True  # else the MLP has one projection before the activation
    swiglu_limit: Positive | None = None  # bound of gate and up, to which 1 is added then
    experts: Written[Count] = 0
    experts_per_token: Written[Count] = 0
    expert_width: Written[Count] = 0
    expert_bias: bool = False  # of the router and of experts
    sigmoid_routing: bool = False  # instead of a softmax
    choice_bias: bool = False  # a bias takes part in the choice of experts, not in their weights
    normalised_routing: Written[bool] = False  # the weights of a token's experts add up to 1
    routed_scale: Positive = 1.0  # of these weights
    parallel_experts: bool = False  # to the MLP, both with norms of their own, as in Gemma 4
    shared_gate: bool = True  # weighs the MLP beside the experts
    output_gate: bool = False  # attended values are gated by a sigmoid before their projection
    keys_as_values: bool = False  # values are keys before their norm and rotation
    value_dim: Count = 0  # of the value heads of a recurrent layer
    convolution: Count = 0  # tokens that its convolution reads; 0 for attention
    mamba: bool = False  # it is a Mamba-2 (arXiv 2405.21060), else a Gated DeltaNet (2412.06464)
    write_scale: Positive = 1.0  # of how much the tokens of a Gated DeltaNet overwrite
    value_norm_eps: Positive | None = None  # of its output's norm; None: norm_eps
    own_keys: bool = True  # else layers attend to the keys and values of others
    # the channel of a state, after those of the model's width, where the keys and values begin that
    # layers of the kind share: the last layers with their own write them, those without read them
    shared_at: Count | None = None

    def __post_init__(self):
        refuse(self.requirements())

    def requirements(self) -> Iterator[tuple[bool, str]]:
        """Yield what fields require of each other, with whether it is broken."""
        heads, kv_heads, whole = self.num_heads, self.num_kv_heads, self.head_dim
        yield heads % kv_heads > 0, f"{heads} query heads cannot share {kv_heads} key/value heads"
        yield whole % 2 > 0, f"head_dim must be even, got {whole}"
        rotary = self.rotary_width
        broken = rotary % 2 > 0 or rotary > whole
        yield broken, f"rotary_dim must be even and at most {whole}, got {rotary}"
        used, experts, width = self.experts_per_token, self.experts, self.expert_width
        yield not (experts or self.mlp_width), "a layer must have an MLP or experts"
        yield self.mlp_bias and not self.mlp_width, "mlp_bias needs an MLP"
        yield experts > 0 and not (used and width), "experts need experts_per_token and a width"
        yield used > experts, f"a token cannot use {used} of {experts} experts"
        yield self.convolution > 0 and not self.value_dim, "recurrent layers need a value_dim"

    @property
    def rotary_width(self) -> int:
        """The channels of a head that rotate."""
        return self.rotary_dim or self.head_dim

    @property
    def gated_shared_expert(self) -> bool:
        """Whether the MLP beside the experts, which every token uses, has a gate."""
        return bool(self.experts and self.mlp_width and self.shared_gate)


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """What a decoder has once, and the kinds of its layers; hashable, so static under jit.

    Checkpoints and families write it as one flat dictionary (`fields`): the fields of the model,
    those of its first kind of layer, and in `kinds` those in which further kinds differ.
    """

    vocab_size: Size
    num_layers: Layers
    width: Size
    context: Size  # the longest prompt the model was made for, in tokens
    norm_eps: Annotated[float, Field(ge=SMALLEST, le=1.0)]
    ropes: tuple[Rope, ...]  # the distinct rope tables
    layer_ropes: tuple[int | None, ...]  # per layer, an index into `ropes`; None: no rotation
    windows: tuple[Size | None, ...]  # per layer, the positions a token sees back; None sees all
    tied: bool  # the head is the embedding
    kinds: tuple[LayerConfig, ...]  # of layers
    layer_kinds: tuple[Count, ...] = ()  # per layer, an index into `kinds`; none: all the first
    # kinds and fields that are written though the first kind has the same value
    restated: tuple[tuple[Count, str], ...] = ()
    model_type: str | None = None  # of the config.json that it was read from
    # added to norms' weights, which then apply in float32
    norm_offset: Written[Annotated[float, Field(allow_inf_nan=False)] | None] = None
    embedding_scale: Written[Positive] = 1.0  # of embeddings, rounded as the weights are
    logit_scale: Positive = 1.0
    logit_softcap: Positive | None = None
    rooted_scales: bool = False  # a layer that a path runs N times scales by its N-th root
    layer_input: Count = 0  # width of the embeddings that each layer has of its own, for tokens
    keys_of: tuple[Count | None, ...] = ()  # per layer: the one whose keys it shares; None: its own

    def __post_init__(self):
        refuse(self.requirements())

    def requirements(self) -> Iterator[tuple[bool, str]]:
        """Yield what fields require of each other, with whether it is broken."""
        layers, kinds = self.num_layers, len(self.kinds)
        yield not kinds, "a model must have a kind of layers"
        for name in ("layer_ropes", "windows"):
            entries = len(getattr(self, name))
            yield entries != layers, f"{name} has {entries} entries for {layers} layers"
        for name in ("layer_kinds", "keys_of"):
            entries = len(getattr(self, name))
            yield entries not in (0, layers), f"{name} has {entries} entries for {layers} layers"
        yield max(self.layer_kinds, default=0) >= kinds, f"layer_kinds must be 0 to {kinds - 1}"
        later = any(x is not None and x >= i for i, x in enumerate(self.keys_of))
        yield later, "a layer can share the keys and values of an earlier one alone"
        known = range(len(self.ropes))
        broken = not {*self.layer_ropes} <= {*known, None}
        yield broken, f"layer_ropes must be 0 to {len(known) - 1}"
        for rope, rotary in zip(self.ropes, self.rope_widths, strict=True):
            pairs = rotary // 2 if rope.pairs is None else rope.pairs
            yield pairs > rotary // 2, f"a rope rotates {pairs} pairs of {rotary} channels"
            n = pairs if rope.divisors is None else len(rope.divisors)
            yield n != pairs, f"a rope has {n} divisors for {2 * pairs} channels of a head"
        unscaled = self.rooted_scales and not any(kind.output_scales for kind in self.kinds)
        yield unscaled, "there are no scales to take roots of"

    @property
    def rope_widths(self) -> tuple[int, ...]:
        """The channels that each rope rotates, those of the layers that have it."""
        widths = dict.fromkeys(range(len(self.ropes)), self.kinds[0].rotary_width)
        for i, rope in enumerate(self.layer_ropes):
            kind = self.kinds[self.kind_of(i)]
            if rope is not None and not kind.convolution:
                widths[rope] = kind.rotary_width
        return tuple(widths.values())

    @property
    def layer_attributes(self) -> tuple[tuple[int | None, ...], ...]:
        """What layers differ in besides their weights: each one's window, rope and kind."""
        kinds = map(self.kind_of, range(self.num_layers))
        return tuple(zip(self.windows, self.layer_ropes, kinds, strict=True))

    @property
    def period(self) -> int:
        """The least number of layers after which their attributes come again in the same order."""
        each = self.layer_attributes
        periods = (p for p in range(1, self.num_layers) if each[p:] == each[:-p])
        return next(periods, self.num_layers)

    @property
    def state_width(self) -> int:
        """The channels of a state: the model's, then the keys and values that layers share."""
        ends = [
            each.shared_at + 2 * each.num_kv_heads * each.head_dim
            for each in self.kinds
            if each.shared_at is not None
        ]
        return max([self.width, *ends])

    def missing_keys(self, path: Sequence[int]) -> tuple[int, int] | None:
        """Return the first layer of a path that precedes the one whose keys it shares, and that.

        Its states would be NaN: a search counts such a path as one that is not finite.
        """
        return missing_keys(self.keys_of, path)

    def check_keys(self, path: Sequence[int]) -> None:
        """Raise InputError for a path with `missing_keys`."""
        check_keys(self.keys_of, path)

    def with_runs(self, paths: Any) -> Any:
        """Return padded paths [..., P] as executors take them.

        Where layers scale by roots, ids say how often the path runs the layer; see `steps`.
        """
        return with_runs(paths) if self.rooted_scales else paths

    def kind_of(self, layer: int) -> int:
        """Return the kind of a layer, an index into `kinds`."""
        return self.layer_kinds[layer] if self.layer_kinds else 0

    def layers_of(self, kind: int) -> tuple[int, ...]:
        """Return the layers of a kind, in the order of its stack."""
        return tuple(i for i in range(self.num_layers) if self.kind_of(i) == kind)

    @property
    def stack_index(self) -> tuple[int, ...]:
        """The index of each layer in the stack of its kind."""
        kinds = [self.kind_of(i) for i in range(self.num_layers)]
        return tuple(kinds[:i].count(kind) for i, kind in enumerate(kinds))

    def fields(self) -> dict[str, Any]:
        """Return the flat dictionary of the config."""
        first = values_of(self.kinds[0])
        model = values_of(self)
        del model["restated"]
        differences = tuple(
            {
                name: value
                for name, value in values_of(kind).items()
                if value != first[name] or (number, name) in self.restated
            }
            for number, kind in enumerate(self.kinds[1:], 1)
        )
        return model | first | {"kinds": differences}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """Build a config from what `fields` returns, which may lack fields at their defaults."""
        values = nested(fields)
        values["kinds"] = tuple(LayerConfig(**kind) for kind in values["kinds"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the flat dictionary as it is written, of types that JSON has.

        Digests of models are made of it.
        """
        fields = written(self.fields(), ModelConfig, LayerConfig)
        if len(self.kinds) == 1:
            del fields["kinds"]
        return fields | {"ropes": [written(values_of(rope), Rope) for rope in self.ropes]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """Rebuild a config from the fields that `to_json` wrote; InputError for other fields."""
        with reading("the model config"):
            return TypeAdapter(ModelConfig).validate_json(json.dumps(nested(fields)))


def missing_keys(keys_of: Sequence[int | None], path: Sequence[int]) -> tuple[int, int] | None:
    """Return the first layer of a path that precedes the one whose keys it shares, and that.

    `keys_of` are, per layer, the one whose keys it shares, None for its own; none: all their own.
    An MLP alone neither makes keys nor needs them.
    """
    attending = [layer_of(step) for step in path if part_of(step) != MLP] if keys_of else []
    for place, layer in enumerate(attending):
        source = keys_of[layer]
        if source is not None and source not in attending[:place]:
            return layer, source
    return None


def check_keys(keys_of: Sequence[int | None], path: Sequence[int]) -> None:
    """Raise InputError for a path with `missing_keys`."""
    if missing := missing_keys(keys_of, path):
        layer, source = missing
        raise InputError(
            f"a path runs layer {layer}, which attends to the keys and values of layer "
            f"{source}, without layer {source} before it: put {source} first."
        )


def refuse(requirements: Iterable[tuple[bool, str]]) -> None:
    """Raise InputError for the first requirement that is broken."""
    for broken, message in requirements:
        if broken:
            raise InputError(f"{message}.")


def values_of(config: Rope | LayerConfig | ModelConfig) -> dict[str, Any]:
    """Return the values of a config by field."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def written(values: Mapping[str, Any], *classes: type) -> dict[str, Any]:
    """Return the values of the fields of classes that are written."""
    defaults: dict[str, Any] = {}
    for each in classes:
        hints = get_type_hints(each, include_extras=True)
        for field in dataclasses.fields(each):
            always = "written" in getattr(hints[field.name], "__metadata__", ())
            if not always and field.default is not dataclasses.MISSING:
                defaults[field.name] = field.default
    return {
        name: value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ModelConfig, given its flat dictionary: each kind has all of its."""
    defaults = {field.name: field.default for field in dataclasses.fields(LayerConfig)}
    model = {name: value for name, value in fields.items() if name not in defaults}
    first = {name: value for name, value in fields.items() if name in defaults}
    differences = model.pop("kinds", ())
    same = defaults | first
    restated = [
        (number, name)
        for number, kind in enumerate(differences, 1)
        for name, value in sorted(kind.items())
        if name in same and value == same[name]
    ]
    kinds = [first, *(first | kind for kind in differences)]
    return {**model, "kinds": kinds, "restated": tuple(restated)}
