"""The modes of attention: over prompts, after a shared prefix, and to a KV cache.

Each mode is an object with the same call. Its arrays are those of a whole batch, from which a tile
takes its rows; its kernel is one of `cola_jax.kernels`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cola_jax.attention import KeysValues, Seen
from cola_jax.config import LayerConfig, ModelConfig
from cola_jax.execute.kv_cache import Kept, KVBlocks, kv_block
from cola_jax.execute.plan import TileColumns, TileShape
from cola_jax.kernels.attention import DecodeAttention, PromptAttention, Rotated, Rows
from cola_jax.model import (
    View,
    keys_values,
    queries,
    rotation,
    seen_in,
    take_positions,
    view_at_positions,
)
from cola_jax.params import Layer

Heads = Float[Array, "R _ N H"]


class Tile(NamedTuple):
    """The rows of one tile on the device, and the view of their tokens."""

    columns: TileColumns  # arrays [R]
    view: View  # [R, T]
    read: Int[Array, "R Q"] | None  # the positions of the result; all when None


@runtime_checkable
class Mode(Protocol):
    """How layers of a kind run the rows of tiles; a pytree."""

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Take the rows of a tile from the arrays of the batch."""
        ...

    def view_layers(self, layers: Any) -> Any:
        """View a stack of layers in the shapes in which the mode takes its products."""
        ...

    def __call__(
        self, config: ModelConfig, layer: Any, h: Float[Array, "R T S"], tile: Tile, cache: Any
    ) -> tuple[Heads, Any]:
        """Mix the tokens of rows, at the positions read, and write to the cache."""
        ...


class OverPrompts(struct.PyTreeNode):
    """Rows are prompts, whose tokens see earlier ones of their own branch and of the prompt."""

    views: View  # [B, T]
    read: Int[Array, "B Q"] | None = None
    kernel: PromptAttention = struct.field(pytree_node=False, default=PromptAttention())

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Take the view of the rows of a tile."""
        view = view_of_rows(self.views, columns, shape.tokens)
        read = None if self.read is None else self.read[columns.question, : shape.reads]
        return Tile(columns, view, read)

    def view_layers(self, layers: Layer) -> Layer:
        """View a stack of layers as the kernel takes its products."""
        return self.kernel.view_layers(layers)

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Float[Array, "R T S"], tile: Tile, cache: Kept
    ) -> tuple[Heads, Kept]:
        """Attend with the tokens that are read, and write the keys and values seen to the cache."""
        read_view = view_at_positions(tile.view, tile.read)
        k, v = keys_values(config, layer, h, tile.view, rotated=False)
        q = queries(config, layer, take_positions(h, tile.read), read_view, rotated=False)
        of_queries, of_keys = (rotation(layer, x) for x in (read_view, tile.view))
        tokens = Rotated(q, k, v, of_queries, of_keys, layer.sinks)
        seen = seen_in(config, tile.view, layer.window, tile.read)
        mixed, kept = self.attend(tile, tokens, seen, isinstance(cache, KVBlocks))
        return mixed, cache.write(kept, tile.columns.block)

    def attend(
        self, tile: Tile, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Heads, KeysValues]:
        """Attend to the tokens of the tile; return the keys and values seen as well."""
        return self.kernel.over(tokens, seen, keep)


class AfterPrefix(OverPrompts):
    """Rows continue a prefix, whose keys and values are in blocks of exactly its tokens."""

    prefix: KVBlocks = struct.field(kw_only=True)

    def attend(
        self, tile: Tile, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Heads, KeysValues]:
        """Attend to the prefix as well."""
        before = self.prefix.take(tile.columns.prompt_block)
        return self.kernel.after(before, tokens, seen, keep)


class ToCache(struct.PyTreeNode):
    """Rows are single tokens, of W decode slots and one more for padding."""

    views: View  # [W, 1]
    prompt: KVBlocks
    length: Int[Array, " W"]  # tokens of its prompt
    decoded: Int[Array, " W"]  # tokens decoded so far
    reach: tuple[int, int] = struct.field(pytree_node=False)  # of prompts, and of decoded tokens
    kernel: DecodeAttention = struct.field(pytree_node=False, default=DecodeAttention())

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Take the view of the rows of a tile."""
        return Tile(columns, view_of_rows(self.views, columns, 1), None)

    def view_layers(self, layers: Layer) -> Layer:
        """Leave the layers as they are."""
        return layers

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Float[Array, "R 1 S"], tile: Tile, cache: Kept
    ) -> tuple[Heads, Kept]:
        """Write the token's keys and values to the row's own block, and attend."""
        assert isinstance(cache, KVBlocks)
        columns = tile.columns
        nth = self.decoded[columns.question] - 1
        length = self.length[columns.question]
        blocks = columns.prompt_block, columns.block
        rows = Rows(*blocks, length, nth, layer.window[None], layer.sinks)
        q = queries(config, layer, h, tile.view)
        token = keys_values(config, layer, h, tile.view)
        mixed, own = self.kernel(rows, q, token, self.prompt, cache, self.reach)
        return mixed, KVBlocks(*own)


def over_prompts(
    views: View, prefix: KVBlocks | None, read: Array | None, kernel: PromptAttention
) -> OverPrompts:
    """Make the mode of prompts, or of prompts that continue a prefix."""
    if prefix is None:
        return OverPrompts(views, read, kernel)
    return AfterPrefix(views, read, kernel, prefix=prefix)


class Kind(NamedTuple):
    """How layers of a kind run, and the block that they keep for some tokens."""

    over_prompts: Callable[..., Mode]
    to_cache: Callable[..., Mode]
    block: Callable[[LayerConfig, int, DTypeLike], Any]


ATTENTION = Kind(over_prompts, ToCache, kv_block)


def view_of_rows(views: View, columns: TileColumns, tokens: int) -> View:
    """Take the view of the first tokens of each row's question, and the inputs of its layer."""
    question = columns.question
    inputs = views.inputs
    # columns have steps, as `steps_of` numbers them
    layer = None if inputs is None else columns.layer[0] % len(inputs)
    return View(
        positions=views.positions[question, :tokens],
        branch=views.branch[question, :tokens],
        cos=views.cos[:, question, :tokens],
        sin=views.sin[:, question, :tokens],
        inputs=None if inputs is None else inputs[layer, question, :tokens],
    )
