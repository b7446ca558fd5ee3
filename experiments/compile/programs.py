"""The device programs with shapes for arguments, for compilers of devices that are not here."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cola_jax.config import ModelConfig
from cola_jax.execute.attention import AfterPrefix, Mode, OverPrompts, ToCache
from cola_jax.execute.forward import forward_few, forward_tiles
from cola_jax.execute.kv_cache import NO_CACHE, Kept, KVBlocks
from cola_jax.execute.layout import TileShape
from cola_jax.execute.memory import ACCELERATOR, WRITTEN
from cola_jax.execute.placement import TPU_ORDER, sharding_on, worker_mesh
from cola_jax.execute.plan import WIDTH
from cola_jax.execute.recurrence import RecurrentOverPrompts
from cola_jax.execute.reference import logits
from cola_jax.execute.worker import CALL
from cola_jax.kernels.attention import PromptAttention
from cola_jax.kernels.decode import DecodeAttention
from cola_jax.kernels.tpu_decode import TpuDecodeAttention
from cola_jax.kernels.tpu_experts import run_experts_on_tpu
from cola_jax.kernels.tpu_prompt import TpuPromptAttention
from cola_jax.model import View
from cola_jax.moe import KERNEL_ROWS, block_rows
from cola_jax.params import Layer, Model, assemble, field_of, shapes, sharding
from cola_jax.prompts import Prompts, Readings, readings
from cola_jax.steps import ATTENTION, MLP, WHOLE, StepForm

QUESTIONS, READS, OUTPUTS = 64, 16, 1024
DECODE_ROWS, DECODE_SLOTS, POSITIONS, DECODED = 64, 128, 32, 64
RECURRENT = "forward, recurrent layer"
PLAIN = StepForm()
FORMS = {
    "forward, attention alone": StepForm(ATTENTION),
    "forward, MLP alone": StepForm(MLP),
    "forward, half of the update": StepForm(damped=True),
}
OF_ATTENTION = ("q", "k", "v", "o", "output_gate")
PREFIX, STATES = 512, 1024  # tokens that prompts have in common, and their states


class Sizes(NamedTuple):
    """What the programs are compiled for, beside a model."""

    tokens: int  # of a prompt, T
    rows: int  # states of a tile, R
    slots: int  # state slots, S


class Unseen(NamedTuple):
    """What one of our own kernels does in a tile, for all devices: the compiler counts nothing."""

    flops: float = 0
    moved: float = 0  # bytes


class Program(NamedTuple):
    """A lowered program, and what one of its tiles takes."""

    lowered: Any
    layers: Layer
    flops: float
    tokens: int  # whose states are read and written
    cached: int = 0  # bytes of the KV cache that are read or written
    unseen: Unseen = Unseen()
    row: int = 1  # tokens of a row
    part: int = WHOLE  # of the layer

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the matrices of the layer's part, those of one device."""
        names = [
            field.name
            for field in dataclasses.fields(Layer)
            if self.part in (WHOLE, ATTENTION if field.name in OF_ATTENTION else MLP)
        ]
        leaves = {name: getattr(self.layers, name) for name in names}
        return {
            name: shard_shape(leaf)[1:]
            for name, leaf in leaves.items()
            if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.ndim > 2
        }

    def least_bytes(self, make: "Abstract") -> float:
        """Count what one device must read and write: weights and states once, and the cache."""
        states = 2 * 2 * self.tokens * make.config.width
        return 2 * sum(map(math.prod, self.weights().values())) + states + self.cached / make.tensor


def shard_shape(leaf: Any) -> tuple[int, ...]:
    """Return the shape of one device's part."""
    place: Any = leaf.sharding
    inner: Any = place.sharding if isinstance(place, Format) else place
    return inner.shard_shape(leaf.shape)


class Abstract:
    """Shapes and shardings of the programs' arguments on devices that are split by tensor."""

    def __init__(self, config: ModelConfig, devices: np.ndarray):
        self.config, self.devices, self.tensor = config, devices, devices.size
        self.together = 1  # tiles of a call
        axes = ("data", "tensor")
        self.mesh = Mesh(devices.reshape(1, -1), axes, axis_types=(AxisType.Auto,) * 2)
        self.worker = worker_mesh(devices)
        self.platform = devices.flat[0].platform
        # as `kernels.choice` chooses for these models
        self.kernel, self.decode_kernel = PromptAttention("cudnn"), DecodeAttention()
        if self.platform == "tpu":
            self.kernel, self.decode_kernel = TpuPromptAttention(), TpuDecodeAttention()
        if self.tensor > 1:
            self.kernel = self.kernel.on(self.worker)
            self.decode_kernel = self.decode_kernel.on(self.worker)

    def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        """Make an array that every device holds whole."""
        whole = NamedSharding(self.worker, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    def buffer(self, *shape: int, split: int) -> Any:
        """Make a buffer, split over the devices along one axis as `Worker.buffer` does."""
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding_on(self.devices, split))

    def pages(self, tokens: int) -> tuple[KVBlocks, Any]:
        """Make the pages of a decoder with so many tokens at each position, and their table."""
        blocks = DECODE_SLOTS * POSITIONS
        page = min(tokens, ACCELERATOR.decode_page)
        most = -(-tokens // page)
        return self.blocks(page, blocks * most), self.array(blocks + 1, most)

    def blocks(self, tokens: int, count: int) -> KVBlocks:
        """Make pages of keys and values, each of so many tokens."""
        kind = self.config.kinds[0]
        shape = (count + 1, kind.num_kv_heads, tokens, kind.head_dim)
        k, v = (self.buffer(*shape, split=1) for _ in range(2))
        return KVBlocks(k=k, v=v)

    def weight(self, name: str, shape: tuple[int, ...], ordered: bool) -> Any:
        """Make a weight, split over `tensor`, in the memory order of a worker."""
        spec = getattr(sharding(name, shape, self.mesh), "spec")  # noqa: B009
        place: Any = NamedSharding(self.worker, spec)
        if ordered and self.platform == "tpu" and field_of(name) in ("q", "k", "v"):
            place = Format(TPU_ORDER, place)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    def model(self, ordered: bool = True) -> Model:
        """Make all weights; `ordered` as a worker holds them."""
        every = shapes(self.config).items()
        weights = {name: self.weight(name, shape, ordered) for name, shape in every}
        return assemble(self.config, weights)

    def layers(self, number: int) -> Layer:
        """Make the weights of a call, as a worker gives them: on a GPU, of one layer."""
        layers = self.model().layers[number]
        if self.platform == "tpu" and self.tensor == 1 and layers.router is not None:
            layers = layers.replace(experts_kernel=run_experts_on_tpu)
        return layers if self.platform == "tpu" else jax.tree.map(one_layer, layers)

    def view(self, rows: int, tokens: int) -> View:
        """Make the view of prompts, or of decode slots."""
        angles = self.array(1, rows, tokens, self.config.kinds[0].head_dim // 2, dtype=jnp.float32)
        place = self.array(rows, tokens)
        return View(positions=place, branch=place, cos=angles, sin=angles)

    def lower(
        self,
        shape: TileShape,
        states: Any,
        mode: Mode,
        cache: Kept = NO_CACHE,
        source: Any = None,
        number: int = 0,
        form: StepForm = PLAIN,
    ) -> tuple[Any, Layer]:
        """Lower the program that runs tiles: on a GPU as many as layers are given, here one.

        `number` is that of the kind of layer.
        """
        layers, index = self.layers(number), self.array()
        table = self.array(CALL, WIDTH, shape.rows)
        facts = (self.config, number, form, shape)
        buffers = (states, cache, mode, source)
        if self.platform == "tpu":
            return forward_tiles.lower(*facts, layers, table, index, index, *buffers), layers
        few = (layers,) * self.together
        return forward_few.lower(*facts, few, table, index, *buffers), layers


def one_layer(leaf: Any) -> Any:
    """Return the shape of a stack of one layer."""
    return jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)


def layer_flops(config: ModelConfig, tokens: int, number: int = 0, part: int = WHOLE) -> float:
    """Count the floating-point operations of a layer on a state: matmuls and attention.

    A token attends to those before it.
    """
    kind = config.kinds[number]
    heads = kind.num_heads * kind.head_dim
    kv = kind.num_kv_heads * kind.head_dim
    experts = 3 * kind.expert_width * kind.experts_per_token + kind.experts
    if kind.convolution:
        values = kind.num_heads * kind.value_dim
        weights = config.width * (2 * kv + 3 * values + 2 * kind.num_heads + 3 * kind.mlp_width)
        # a state is read and written by each token
        return 2.0 * tokens * weights + 6.0 * tokens * values * kind.head_dim
    mlp = 2.0 * tokens * config.width * (3 * kind.mlp_width + experts)
    attention = 2.0 * tokens * config.width * (2 * heads + 2 * kv)
    attention += 2.0 * tokens * (tokens + 1) * heads
    return {WHOLE: attention + mlp, ATTENTION: attention, MLP: mlp}[part]


def lower_prefill(
    make: Abstract,
    sizes: Sizes,
    *,
    cache: bool = False,
    last: bool = False,
    prefix: int = 0,
    form: StepForm = PLAIN,
) -> Program:
    """Lower tiles of prompts, with or without a KV cache, of steps of a form.

    Without a cache these are the tiles of `run_paths`, with one those of `generate`. The last layer
    of a path is run at the positions read, which in `generate` is the end of the prompt. With
    `prefix`, prompts continue so many tokens, whose keys and values are in blocks.
    """
    config, (tokens, rows, slots) = make.config, sizes
    most_reads = 1 if cache else READS
    shape = TileShape(rows * tokens, rows, tokens, page=ACCELERATOR.page)
    if last:
        shape = shape._replace(reads=rows * most_reads, most_reads=most_reads)
    count = DECODE_SLOTS + 2 * rows if cache else slots
    slots = states = make.buffer(count + 1, tokens, config.width, split=2)
    views = make.view(QUESTIONS, tokens)
    flops = layer_flops(config, tokens, part=form.part)
    mode = OverPrompts(views, kernel=make.kernel)
    kind = config.kinds[0]
    kv = kind.num_kv_heads * kind.head_dim
    blocks, table = make.pages(tokens) if cache else (NO_CACHE, None)
    mode = mode.replace(pages=table)
    if prefix:
        prefix_blocks = make.blocks(prefix, STATES)
        mode = AfterPrefix(views, kernel=make.kernel, pages=table, prefix=prefix_blocks)
        flops += 4.0 * tokens * prefix * kind.num_heads * kind.head_dim
    if last:
        mode = mode.replace(read=make.array(QUESTIONS, most_reads))
        states = make.buffer(OUTPUTS + 1, READS, config.width, split=2)
        if cache:
            states = make.array(DECODE_SLOTS + 1, 1, config.width, dtype=jnp.bfloat16)
        flops = layer_flops(config, most_reads)
        flops += 4.0 * (tokens - most_reads) * config.width * kv
    source = slots if last else None
    lowered, layers = make.lower(shape, states, mode, blocks, source, form=form)
    cached = 4 * rows * (tokens * cache + prefix) * kv
    unseen = experts_unseen(make, rows * tokens)
    return Program(lowered, layers, rows * flops, rows * tokens, cached, unseen, tokens, form.part)


def experts_unseen(make: "Abstract", tokens: int) -> Unseen:
    """Count what the kernel of experts does, its padding included, and the gathers of rows.

    Experts are taken to get as many rows as they do by chance.
    """
    kind = make.config.kinds[0]
    if not kind.experts or make.platform != "tpu":
        return Unseen()
    pairs = tokens * kind.experts_per_token
    rows = block_rows(pairs, kind.experts, KERNEL_ROWS)
    counts = np.random.default_rng(0).multinomial(pairs, np.full(kind.experts, 1 / kind.experts))
    blocks = int(np.sum(-(-counts // rows)))
    units = make.config.width * kind.expert_width
    weights = 3 * 2 * kind.experts * units
    # into blocks, through the kernel, and out of it for each token
    moved = 2 * make.config.width * (4 * (pairs // rows + kind.experts) * rows + pairs)
    return Unseen(6.0 * blocks * rows * units, weights + moved)


def lower_long(make: Abstract, sizes: Sizes, tokens: int) -> Program:
    """Lower a tile of one long prompt."""
    return lower_prefill(make, sizes._replace(tokens=tokens, rows=1, slots=64))


def lower_recurrent(make: Abstract, sizes: Sizes) -> Program:
    """Lower tiles of prompts in a recurrent layer."""
    config, (tokens, rows, slots) = make.config, sizes
    shape = TileShape(rows * tokens, rows, tokens, page=ACCELERATOR.page)
    states = make.buffer(slots + 1, tokens, config.width, split=2)
    mode = RecurrentOverPrompts(make.view(QUESTIONS, tokens))
    lowered, layers = make.lower(shape, states, mode, number=1)
    flops = layer_flops(config, tokens, 1)
    return Program(lowered, layers, rows * flops, rows * tokens)


def serves(program: str, model: str) -> bool:
    """Return whether a program is compiled for a model: recurrent layers and experts alone."""
    if model == "hybrid-2b":
        return program == RECURRENT
    if model == "olmoe-1b-7b":
        return program == "forward"
    return program != RECURRENT


def lower_decode(make: Abstract, sizes: Sizes) -> Program:
    """Lower a decode step."""
    config, tokens, rows = make.config, sizes.tokens, DECODE_ROWS
    views, counts = make.view(DECODE_SLOTS + 1, 1), make.array(DECODE_SLOTS + 1)
    prompt, prompt_table = make.pages(tokens)
    own, table = make.pages(DECODED)
    mode = ToCache(
        views,
        prompt,
        counts,
        counts,
        (prompt_table, table),
        reach=(tokens, DECODED),
        kernel=make.decode_kernel,
    )
    states = make.array(DECODE_SLOTS + 1, 1, config.width, dtype=jnp.bfloat16)
    lowered, layers = make.lower(TileShape(rows, rows, 1), states, mode, own)
    (kind,) = config.kinds
    kv = kind.num_kv_heads * kind.head_dim
    heads = kind.num_heads * kind.head_dim
    past = 4 * rows * (tokens + DECODED) * kv
    unseen = Unseen()
    if make.platform == "tpu":
        # beside the past, queries and what they attend to, the new token, and the tile it is in
        moved = past + 4 * rows * heads + 4 * rows * (1 + WRITTEN) * kv
        unseen = Unseen(4.0 * rows * (tokens + DECODED) * heads, moved)
    return Program(lowered, layers, rows * layer_flops(config, 1), rows, past, unseen)


def lower_vmap(make: Abstract, sizes: Sizes, paths: int) -> Program:
    """Lower `vmap` over `run_path`, which gathers weights for every path."""
    config, tokens = make.config, sizes.tokens
    row, read_at = make.array(1, tokens), make.array(1, READS)
    prompts = Prompts(ids=row, positions=row, branch=row, read=read_at, targets=read_at)
    model = make.model(ordered=False)

    def run(model: Model, prompts: Prompts, padded: jax.Array):
        def run_path(path: jax.Array) -> Readings:
            return readings(logits(model, prompts, path), jnp.asarray(prompts.targets))

        return jax.vmap(run_path)(padded)

    lowered = jax.jit(run).lower(model, prompts, make.array(paths, config.num_layers))
    return Program(lowered, model.layers[0], paths * layer_flops(config, tokens), paths * tokens)


PROGRAMS = {
    "forward": lower_prefill,
    "forward, last layer": lambda make, sizes: lower_prefill(make, sizes, last=True),
    "forward, after a prefix": lambda make, sizes: lower_prefill(make, sizes, prefix=PREFIX),
    "prefill": lambda make, sizes: lower_prefill(make, sizes, cache=True),
    "prefill, last layer": lambda make, sizes: lower_prefill(make, sizes, cache=True, last=True),
    "decode step": lower_decode,
    "forward, 4k tokens": lambda make, sizes: lower_long(make, sizes, 4096),
    "forward, 8k tokens": lambda make, sizes: lower_long(make, sizes, 8192),
    RECURRENT: lower_recurrent,
    **{
        name: lambda make, sizes, form=form: lower_prefill(make, sizes, form=form)
        for name, form in FORMS.items()
    },
}
