"""The parameters of a pretrained model: `Layer` and `Model`, layers stacked on a leading axis.

The matrices of layers may have eight bits (`Int8`). Embedding, head and norms stay floats: the head
is read once a token whatever the path, and its errors are those of the logits.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int

from cola_jax.config import LayerConfig, ModelConfig
from cola_jax.errors import InputError
from cola_jax.steps import layer_of, part_of, runs_of, share_of

FULL = np.iinfo(np.int32).max  # the window of a layer that sees everything
EXPERT_BIASES = ("expert_gate_bias", "expert_up_bias", "expert_down_bias")
EXPERTS = ("expert_gate", "expert_up", "expert_down", *EXPERT_BIASES)
# may be whole on every device
REPLICABLE = {"k", "v", "k_bias", "v_bias", "embedding", "head", "layer_embedding"}

INT8 = "int8"
LARGEST_INT8 = 127  # -128 is not used
# the axes that a product sums over, which share a scale, counted from the last
INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("q", "k", "v", "output_gate"), (-3,)),
    "o": (-3, -2),
    **dict.fromkeys(("gate", "up", "down", "expert_gate", "expert_up", "expert_down"), (-2,)),
    **dict.fromkeys(("input_gate", "input_up"), (-2,)),
}


def stacked(*spec: str | None) -> Any:
    """A stacked weight; `spec` places one layer of it on the mesh, never split over layers."""
    return struct.field(metadata={"spec": PartitionSpec(None, *spec)})


def single(*spec: str | None) -> Any:
    """A weight that the model has once; `spec` places it on the mesh."""
    return struct.field(metadata={"spec": PartitionSpec(*spec)})


class Layer(struct.PyTreeNode):
    """Decoder blocks stacked on L; a slice is one block, a weight that a family lacks is None.

    `layer_at` takes a slice. It adds the attributes at the end, which are not weights and therefore
    not part of a stack: a layer keeps its own wherever a path moves or repeats it.
    """

    attention_norm: Float[Array, "*L D"] | None = stacked(None)
    attention_norm_bias: Float[Array, "*L D"] | None = stacked(None)
    q: Float[Array, "*L D N H"] = stacked(None, "tensor", None)
    k: Float[Array, "*L D K H"] | None = stacked(None, "tensor", None)  # None: those of others
    v: Float[Array, "*L D K H"] | None = stacked(None, "tensor", None)  # None: as keys
    o: Float[Array, "*L N H D"] = stacked("tensor", None, None)
    q_bias: Float[Array, "*L N H"] | None = stacked("tensor", None)
    k_bias: Float[Array, "*L K H"] | None = stacked("tensor", None)
    v_bias: Float[Array, "*L K H"] | None = stacked("tensor", None)
    o_bias: Float[Array, "*L D"] | None = stacked(None)
    q_norm: Float[Array, "*L H"] | Float[Array, "*L N H"] | None = stacked(None)
    k_norm: Float[Array, "*L H"] | Float[Array, "*L K H"] | None = stacked(None)
    sinks: Float[Array, "*L N"] | None = stacked("tensor")
    output_gate: Float[Array, "*L D N H"] | None = stacked(None, "tensor", None)
    # of a recurrent layer, whose q and k have K heads of H, and v, o and the gate N heads of U
    q_taps: Float[Array, "*L K H W"] | None = stacked("tensor", None, None)  # of convolutions
    k_taps: Float[Array, "*L K H W"] | None = stacked("tensor", None, None)
    v_taps: Float[Array, "*L N U W"] | None = stacked("tensor", None, None)
    q_taps_bias: Float[Array, "*L K H"] | None = stacked("tensor", None)
    k_taps_bias: Float[Array, "*L K H"] | None = stacked("tensor", None)
    v_taps_bias: Float[Array, "*L N U"] | None = stacked("tensor", None)
    write: Float[Array, "*L D N"] | None = stacked(None, "tensor")  # how much a token overwrites
    forget: Float[Array, "*L D N"] | None = stacked(None, "tensor")  # how much it forgets
    forget_bias: Float[Array, "*L N"] | None = stacked("tensor")
    forget_rate: Float[Array, "*L N"] | None = stacked("tensor")  # its logarithm
    skip: Float[Array, "*L N"] | None = stacked("tensor")  # of a token's own value
    value_norm: Float[Array, "*L U"] | Float[Array, "*L N U"] | None = stacked(None)
    attention_post_norm: Float[Array, "*L D"] | None = stacked(None)
    mlp_norm: Float[Array, "*L D"] | None = stacked(None)
    mlp_norm_bias: Float[Array, "*L D"] | None = stacked(None)
    gate: Float[Array, "*L D F"] | None = stacked(None, "tensor")
    up: Float[Array, "*L D F"] | None = stacked(None, "tensor")
    down: Float[Array, "*L F D"] | None = stacked("tensor", None)
    gate_bias: Float[Array, "*L F"] | None = stacked("tensor")
    up_bias: Float[Array, "*L F"] | None = stacked("tensor")
    down_bias: Float[Array, "*L D"] | None = stacked(None)
    router: Float[Array, "*L D E"] | None = stacked(None, None)
    router_bias: Float[Array, "*L E"] | None = stacked(None)
    expert_gate: Float[Array, "*L E D X"] | None = stacked(None, None, "tensor")
    expert_up: Float[Array, "*L E D X"] | None = stacked(None, None, "tensor")
    expert_down: Float[Array, "*L E X D"] | None = stacked(None, "tensor", None)
    expert_gate_bias: Float[Array, "*L E X"] | None = stacked(None, "tensor")
    expert_up_bias: Float[Array, "*L E X"] | None = stacked(None, "tensor")
    expert_down_bias: Float[Array, "*L E D"] | None = stacked(None, None)
    shared_gate: Float[Array, "*L D"] | None = stacked(None)  # weighs the MLP beside the experts
    # of experts in parallel to the MLP: norms of the inputs of the router and of experts, norms of
    # the outputs of experts and of the MLP, and the scale of each expert's output
    router_norm: Float[Array, "*L D"] | None = stacked(None)
    expert_scale: Float[Array, "*L E"] | None = stacked(None)
    experts_norm: Float[Array, "*L D"] | None = stacked(None)
    experts_post_norm: Float[Array, "*L D"] | None = stacked(None)
    dense_post_norm: Float[Array, "*L D"] | None = stacked(None)
    mlp_post_norm: Float[Array, "*L D"] | None = stacked(None)
    input_gate: Float[Array, "*L D P"] | None = stacked(None, None)  # of the layer's own embeddings
    input_up: Float[Array, "*L P D"] | None = stacked(None, None)
    input_norm: Float[Array, "*L D"] | None = stacked(None)
    output_scale: Float[Array, "*L 1"] | None = stacked(None)
    rope: Int[Array, ""] = struct.field(default=None)  # index of the rope table
    window: Int[Array, ""] = struct.field(default=None)  # positions seen back, FULL for all
    first_expert: Int[Array, ""] = struct.field(default=None)  # where its experts begin in E
    lends: Bool[Array, ""] = struct.field(default=None)  # whether others share its keys
    # the part that runs; None where a program is of one part
    part: Int[Array, ""] | None = struct.field(default=None)
    share: Float[Array, ""] | None = struct.field(default=None)  # of its update that is added
    config: LayerConfig = struct.field(pytree_node=False, default=None)  # of its kind
    # a kernel that runs experts in place of `moe.run_experts`
    experts_kernel: Callable[..., Any] | None = struct.field(pytree_node=False, default=None)


# The axes of the weights of layers that attend, of Gated DeltaNets and of Mamba-2, and those that
# go with a fact of the config.
ATTENTION_AXES = {"q": "L D N H", "k": "L D K H", "v": "L D K H", "o": "L N H D"}
DELTA_AXES = {
    **{"q": "L D K H", "k": "L D K H", "v": "L D N U", "o": "L N U D", "output_gate": "L D N U"},
    **{"q_taps": "L K H W", "k_taps": "L K H W", "v_taps": "L N U W", "value_norm": "L U"},
    **{"write": "L D N", "forget": "L D N", "forget_bias": "L N", "forget_rate": "L N"},
}
MAMBA_AXES = {
    **{name: axes for name, axes in DELTA_AXES.items() if name != "write"},
    **{"q_taps_bias": "L K H", "k_taps_bias": "L K H", "v_taps_bias": "L N U"},
    **{"skip": "L N", "value_norm": "L N U"},
}
OPTIONAL = {
    "pre_norms": {"attention_norm": "L D", "mlp_norm": "L D"},
    "norm_biases": {"attention_norm_bias": "L D", "mlp_norm_bias": "L D"},
    "post_norms": {"attention_post_norm": "L D", "mlp_post_norm": "L D"},
    "head_norms": {"q_norm": "L H", "k_norm": "L H"},
    "projection_norms": {"q_norm": "L N H", "k_norm": "L K H"},
    "qkv_bias": {"q_bias": "L N H", "k_bias": "L K H", "v_bias": "L K H"},
    "output_bias": {"o_bias": "L D"},
    "sinks": {"sinks": "L N"},
    "output_scales": {"output_scale": "L 1"},
    "output_gate": {"output_gate": "L D N H"},
    "mlp_width": {"gate": "L D F", "up": "L D F", "down": "L F D"},
    "mlp_bias": {"gate_bias": "L F", "up_bias": "L F", "down_bias": "L D"},
    "experts": {
        **{"router": "L D E", "expert_gate": "L E D X"},
        **{"expert_up": "L E D X", "expert_down": "L E X D"},
    },
    "choice_bias": {"router_bias": "L E"},
    "expert_bias": {
        **{"router_bias": "L E", "expert_gate_bias": "L E X"},
        **{"expert_up_bias": "L E X", "expert_down_bias": "L E D"},
    },
    "parallel_experts": {
        **dict.fromkeys(("router_norm", "experts_norm", "experts_post_norm"), "L D"),
        **{"expert_scale": "L E", "dense_post_norm": "L D"},
    },
    "gated_shared_expert": {"shared_gate": "L D"},
}
MODEL_AXES = {"embedding": "V D", "norm": "D"}
# of a model whose layers have embeddings of their own for tokens, and of these layers
INPUT_AXES = {"layer_embedding": "V L P", "layer_projection": "D L P", "layer_norm": "P"}
LAYER_INPUT_AXES = {"input_gate": "L D P", "input_up": "L P D", "input_norm": "L D"}
GATES = {"gate", "gate_bias"}  # of the MLP
VALUES = {"v", "v_bias"}
KEYS = {"k", "k_bias", "k_norm"}


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where a model came from.

    It equals any other, so that models of two checkpoints share programs and combine as trees.
    """

    checkpoint: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0


class Model(struct.PyTreeNode):
    """A pretrained decoder: embedding, stacked layers, final norm and head (None when tied)."""

    config: ModelConfig = struct.field(pytree_node=False)
    layers: tuple[Layer, ...]  # a stack of each kind; most models have one
    embedding: Float[Array, "V D"] = single("tensor", None)
    norm: Float[Array, "D"] = single(None)  # noqa: F821
    norm_bias: Float[Array, "D"] | None = single(None)  # noqa: F821
    head: Float[Array, "D V"] | None = single(None, "tensor")
    # what each layer has of its own for tokens: embeddings, a projection of the model's, its norm
    layer_embedding: Float[Array, "V L P"] | None = single("tensor", None, None)
    layer_projection: Float[Array, "D L P"] | None = single(None, None, None)
    layer_norm: Float[Array, "P"] | None = single(None)  # noqa: F821
    pad_token: int | None = struct.field(pytree_node=False, default=None)  # of the tokenizer
    origin: Origin = struct.field(pytree_node=False, default=Origin())

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that the model was loaded from, which may have a tokenizer."""
        return self.origin.checkpoint

    def __repr__(self) -> str:
        """Describe the model in a few lines, without its weights."""
        config = self.config
        weights = jax.tree.leaves(self)
        kind = config.kinds[0]
        text = f"Model({config.num_layers} layers, width {config.width}, {kind.num_heads} query "
        text += f"and {kind.num_kv_heads} key/value heads of {kind.head_dim}"
        if weights and all(hasattr(weight, "dtype") for weight in weights):  # not of shardings
            number = sum(map(math.prod, shapes(config).values()))
            dtypes = " and ".join(dict.fromkeys(str(weight.dtype) for weight in weights))
            size = sum(weight.size * weight.dtype.itemsize for weight in weights)
            text += f",\n      {number / 1e6:,.1f}M parameters of {dtypes}, {size / 1e6:,.1f} MB"
        return f"{text},\n      from {self.checkpoint})" if self.checkpoint else f"{text})"


def axis_sizes(config: ModelConfig, kind: int) -> dict[str, int]:
    """Return the size of every axis letter of a kind's weights; `two h` are a head's halves."""
    layer = config.kinds[kind]
    return {
        "V": config.vocab_size,
        "L": config.num_layers,
        "D": config.width,
        "N": layer.num_heads,
        "K": layer.num_kv_heads,
        "H": layer.head_dim,
        "two": 2,
        "h": layer.head_dim // 2,
        "F": layer.mlp_width,
        "E": layer.experts,
        "X": layer.expert_width,
        "G": layer.num_heads // layer.num_kv_heads,
        "U": layer.value_dim,
        "W": layer.convolution,
        "P": config.layer_input,
        "1": 1,
    }


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that a model of this config has, stacked, by its name.

    Names are those of fields, with ".1" and so on for layers of further kinds.
    """
    axes = MODEL_AXES | (INPUT_AXES if config.layer_input else {})
    out = sized(axes, axis_sizes(config, 0))
    for kind, layer in enumerate(config.kinds):
        axes = layer_axes(layer) | (LAYER_INPUT_AXES if config.layer_input else {})
        sizes = axis_sizes(config, kind) | {"L": len(config.layers_of(kind))}
        out |= {name_of(field, kind): shape for field, shape in sized(axes, sizes).items()}
    if config.kinds[0].norm_biases:
        out["norm_bias"] = (config.width,)
    if not config.tied:
        out["head"] = config.width, config.vocab_size
    return out


def sized(axes: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each field whose axes are these letters."""
    return {field: tuple(sizes[x] for x in letters.split()) for field, letters in axes.items()}


def layer_axes(layer: LayerConfig) -> dict[str, str]:
    """Return the axes of each field that layers of a kind have."""
    recurrent = MAMBA_AXES if layer.mamba else DELTA_AXES
    letters = dict(recurrent if layer.convolution else ATTENTION_AXES)
    for fact, axes in OPTIONAL.items():
        if getattr(layer, fact):
            letters |= axes
    absent: set[str] = set()
    if layer.keys_as_values or not layer.own_keys:
        absent |= VALUES
    if not layer.own_keys:
        absent |= KEYS
    if not layer.gated_mlp:
        absent |= GATES
    return {name: axes for name, axes in letters.items() if name not in absent}


def name_of(field: str, kind: int) -> str:
    """Return the name of a weight of layers of a kind."""
    return f"{field}.{kind}" if kind else field


def field_of(name: str) -> str:
    """Return the field of a weight."""
    return name.partition(".")[0]


def kind_of_weight(name: str) -> int:
    """Return the kind of layers that a weight is of."""
    return int(name.partition(".")[2] or 0)


def assemble(
    config: ModelConfig,
    weights: dict[str, Any],
    pad_token: int | None = None,
    checkpoint: str | None = None,
) -> Model:
    """Build a Model from its weights by field name."""
    fields = [field.name for field in dataclasses.fields(Layer) if "spec" in field.metadata]

    def stack_of(kind: int) -> Layer:
        stack: dict[str, Any] = {field: weights.get(name_of(field, kind)) for field in fields}
        return Layer(**stack)

    return Model(
        embedding=weights["embedding"],
        layers=tuple(stack_of(kind) for kind in range(len(config.kinds))),
        norm=weights["norm"],
        norm_bias=weights.get("norm_bias"),
        head=weights.get("head"),
        layer_embedding=weights.get("layer_embedding"),
        layer_projection=weights.get("layer_projection"),
        layer_norm=weights.get("layer_norm"),
        config=config,
        pad_token=pad_token,
        origin=Origin(checkpoint),
    )


def weights_of(model: Model) -> Iterator[tuple[str, Any]]:
    """Yield the weights of a model by name, as `assemble` takes them."""
    fields = {field.name for field in dataclasses.fields(Model)}
    for name in shapes(model.config):
        holder = model if name in fields else model.layers[kind_of_weight(name)]
        yield name, getattr(holder, field_of(name))


def layer_at(config: ModelConfig, kind: int, layers: Layer, step: Int[ArrayLike, ""]) -> Layer:
    """Take the layer of a step from the stack of its kind, with its attributes and the step's.

    For compiled loops. A stack of one layer is that layer itself, taken without a slice, which a
    CPU would copy. Experts stay in a stack of several, one after the other, and `first_expert` says
    which are the layer's: slices of a layer's experts are not fused into the loop over them, so all
    would be copied.
    """
    step = jnp.asarray(step)
    i = layer_of(step)
    windows = [FULL if width is None else width for width in config.windows]
    still = len(config.ropes)  # the last table of `model.view`
    ropes = [still if index is None else index for index in config.layer_ropes]
    attributes: dict[str, Any] = {
        "config": config.kinds[kind],
        "rope": jnp.asarray(ropes, jnp.int32)[i],
        "window": jnp.asarray(windows, jnp.int32)[i],
        "part": part_of(step),
        "share": share_of(step),
    }
    if config.keys_of:
        lenders = {*config.keys_of}
        attributes["lends"] = jnp.asarray([i in lenders for i in range(len(config.keys_of))])[i]
    has_experts = layers.router is not None
    if layers.q.shape[0] == 1:
        layer, first = jax.tree.map(lambda leaf: leaf[0], layers), jnp.int32(0)
    else:
        place = jnp.asarray(config.stack_index, jnp.int32)[i] if len(config.kinds) > 1 else i
        layer = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, 0, False), layers
        )
        first = place * config.kinds[kind].experts
        if has_experts:
            stacks = {name: getattr(layers, name) for name in EXPERTS}
            layer = layer.replace(**jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacks))
    if layer.output_scale is not None:
        layer = layer.replace(output_scale=scale_of(step, layer.output_scale))
    return layer.replace(**attributes, first_expert=first if has_experts else None)


def scale_of(steps: Any, scale: Any) -> Any:
    """Return the scale [..., 1] of a layer's output at steps [...], in float32: a root."""
    runs = runs_of(steps)[..., None]
    wide = jnp.asarray(scale, jnp.float32)
    return jnp.where(runs == 1, wide, wide ** (1 / runs))


# The placement of every weight by field name, over mesh axes `data` and `tensor`.
SPECS: dict[str, PartitionSpec] = {
    field.name: field.metadata["spec"]
    for node in (Model, Layer)
    for field in dataclasses.fields(node)
    if "spec" in field.metadata
}


def sharding(name: str, shape: tuple[int, ...], mesh: Mesh | None) -> jax.sharding.Sharding:
    """Return where a weight lives: on the default device without a mesh, else split by its spec.

    Key/value heads that do not divide the `tensor` axis are replicated, as are vocabularies; query
    heads and the widths of MLP and experts must divide it. InputError where they do not, or where
    the mesh names other axes.
    """
    if mesh is None:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    unknown = set(mesh.axis_names) - {"data", "tensor"}
    if unknown:
        raise InputError(
            f"the mesh has axes {sorted(unknown)}, but weights are placed over 'data' and "
            "'tensor' only: make the mesh with those axis names."
        )
    ways = mesh.shape.get("tensor", 1)
    axes = []
    for size, axis in itertools.zip_longest(
        shape, SPECS[field_of(name)]
    ):  # axes beyond the spec are whole
        splits = axis == "tensor" and ways > 1 and size > 1  # 1: a scale that all inputs share
        if splits and size % ways and field_of(name) not in REPLICABLE:
            raise InputError(
                f"weight {name} of shape {shape} cannot be split over {ways} devices: choose a "
                f"'tensor' axis that divides {size}."
            )
        axes.append(axis if splits and size % ways == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*axes))


class Int8(struct.PyTreeNode):
    """A weight of eight bits, `values * scale`; a scale serves a block of values along each axis.

    Both have the same axes, so that a slice, a view or a transposition of layers is one of both.
    """

    values: Any  # int8
    scale: Any  # floats, whose sizes divide those of the values

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return self.values.ndim

    def widen(self, dtype: DTypeLike) -> Any:
        """Return the weight as floats, rounded once."""
        blocks = [(s, n // s) for s, n in zip(self.scale.shape, self.shape, strict=True)]
        values = self.values.reshape([n for block in blocks for n in block])
        scale = self.scale.reshape([n for count, _ in blocks for n in (count, 1)])
        wide = values.astype(np.float32) * scale.astype(np.float32)
        return wide.astype(dtype).reshape(self.shape)


def int8_product(axes: str, x: jax.Array, weight: Int8) -> jax.Array:
    """Multiply by a weight; sums are float32, and rounded once, at the end.

    A scale of a whole output channel multiplies its sums. Compilers then read the int8 values
    inside the product; scaled values they would first write to memory (XLA for H100, Triton).
    """
    multiply = functools.partial(jnp.einsum, axes, x, preferred_element_type=jnp.float32)
    letters, out = axes.split(",")[1].split("->")
    channels = [n for n, axis in zip(weight.scale.shape, letters, strict=True) if axis in out]
    if weight.scale.size > math.prod(channels):
        return multiply(weight.widen(x.dtype)).astype(x.dtype)
    sums = multiply(weight.values.astype(x.dtype))
    return (sums * weight.scale.reshape(channels)).astype(x.dtype)


def quantize(weight: Any, inputs: tuple[int, ...]) -> Int8:
    """Round an array to eight bits, with a scale in float32 for each output channel.

    Zeros have a scale of 1. A NumPy array gives NumPy arrays.
    """
    xp = np if isinstance(weight, np.ndarray) else jnp
    wide = weight.astype(np.float32)
    scale = abs(wide).max(inputs, keepdims=True) * np.float32(1 / LARGEST_INT8)
    scale = xp.where(scale == 0, np.float32(1), scale)
    return Int8(xp.rint(wide / scale).astype(np.int8), scale)


def cast(name: str, weight: Any, dtype: DTypeLike, mesh: Mesh | None = None) -> Any:
    """Convert a weight of this field to the dtype of a model."""
    if jnp.dtype(dtype) == INT8 and field_of(name) in INPUTS:
        return weight if isinstance(weight, Int8) else quantize_on(name, weight, mesh)
    if isinstance(weight, Int8):
        return jax.jit(Int8.widen, static_argnums=1)(weight, dtype)
    return weight.astype(float_dtype(dtype))


def quantize_on(name: str, weight: jax.Array, mesh: Mesh | None) -> Int8:
    """Round a weight on the devices that hold it, the largest values of a channel shared."""
    run = functools.partial(quantize, inputs=INPUTS[field_of(name)])
    scale = jax.eval_shape(run, weight).scale.shape
    shardings = Int8(sharding(name, weight.shape, mesh), sharding(name, scale, mesh))
    return jax.jit(run, out_shardings=shardings)(weight)


def float_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype of activations and of weights without eight bits, given a model's dtype."""
    if jnp.dtype(dtype) != INT8:
        return jnp.dtype(dtype)
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def weight_bytes(config: ModelConfig, dtype: DTypeLike, wide: DTypeLike) -> int:
    """Return the bytes of a model's weights, without scales; `wide` is the dtype beside int8."""
    is_int8, size = jnp.dtype(dtype) == INT8, jnp.dtype(wide).itemsize
    return sum(
        math.prod(shape) * (1 if is_int8 and field_of(name) in INPUTS else size)
        for name, shape in shapes(config).items()
    )
