"""What the rows of a tile attend to: their prompts, a prefix before them, or a KV cache.

Each mode is one object with the same call. Its arrays are those of a whole batch, from which a tile
takes its rows; its kernel is one of `cola_jax.kernels`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.execute.plan import Columns, TileShape
from cola_jax.kernels.attention import DecodeAttention, KeysValues, PromptAttention, Rotated, Rows
from cola_jax.kernels.buffers import get, put
from cola_jax.model import View, at, at_view, keys_values, queries, visible
from cola_jax.params import Layer

IN_ORDER = Layout((0, 1, 2, 3))  # in memory as in the shape


class KVBlocks(NamedTuple):
    """Keys and values of X tokens in each of M blocks; the block after the last is for padding.

    They belong to a position of a path, never to a layer: one that runs twice has two caches. Those
    of prompts are shared by rows, a block for each state of the trie; those of decoded tokens are a
    row's own. Heads come first, so that the keys of a head are contiguous: a CPU attends twice as
    fast.
    """

    k: Shaped[Array, "M K X H"]
    v: Shaped[Array, "M K X H"]

    def write(self, kept: KeysValues, block: Int[Array, " R"]) -> "KVBlocks":
        """Write keys and values [R, T, K, H] to the beginnings of blocks."""
        # without the constraint, a TPU copies all blocks to the order in which keys are computed
        k, v = (with_layout_constraint(x.transpose(0, 2, 1, 3), IN_ORDER) for x in kept)
        return KVBlocks(k=put(self.k, k, block), v=put(self.v, v, block))

    def take(
        self, block: Int[Array, " R"]
    ) -> tuple[Float[Array, "R K X H"], Float[Array, "R K X H"]]:
        """Take blocks."""
        return get(self.k, block), get(self.v, block)


class NoCache(NamedTuple):
    """Stands for the cache where keys and values are not kept."""

    def write(self, kept: KeysValues, block: jax.Array) -> "NoCache":
        """Keep nothing."""
        return self


@runtime_checkable
class Kept(Protocol):
    """What layers of a kind keep, in blocks: a tuple of arrays [M, ...]."""

    def write(self, kept: Any, block: Int[Array, " R"]) -> "Kept":
        """Write what a layer keeps of each row to blocks."""
        ...


Heads = Float[Array, "R _ N H"]


class Tile(NamedTuple):
    """The rows of one tile on the device, and the view of their tokens."""

    columns: Columns  # arrays [R]
    view: View  # [R, T]
    read: Int[Array, "R Q"] | None  # the positions of the result; all when None


@runtime_checkable
class Mode(Protocol):
    """How layers of a kind run the rows of tiles; a pytree."""

    def tile(self, columns: Columns, shape: TileShape) -> Tile:
        """Take what a tile needs of the arrays of the batch."""
        ...

    def view_layers(self, layers: Any) -> Any:
        """View a stack of layers in the shapes in which the mode takes its products."""
        ...

    def __call__(
        self, config: ModelConfig, layer: Any, h: Float[Array, "R T D"], tile: Tile, cache: Any
    ) -> tuple[Heads, Any]:
        """Mix the tokens of rows, at the positions read, and write what is kept to the cache."""
        ...


class OverPrompts(struct.PyTreeNode):
    """Rows are prompts, whose tokens see earlier ones of their own branch and of the prompt."""

    views: View  # [B, T]
    read: Int[Array, "B Q"] | None = None
    kernel: PromptAttention = struct.field(pytree_node=False, default=PromptAttention())

    def tile(self, columns: Columns, shape: TileShape) -> Tile:
        """Take the view of the rows of a tile."""
        view = of_questions(self.views, columns.question, shape.tokens)
        read = None if self.read is None else self.read[columns.question, : shape.reads]
        return Tile(columns, view, read)

    def view_layers(self, layers: Layer) -> Layer:
        """View a stack of layers as the kernel takes its products."""
        return self.kernel.view_layers(layers)

    def __call__(
        self,
        config: ModelConfig,
        layer: Layer,
        h: Float[Array, "R T D"],
        tile: Tile,
        cache: Kept,
    ) -> tuple[Heads, Kept]:
        """Attend with the tokens that are read, and write the keys and values seen to the cache."""
        there = at_view(tile.view, tile.read)
        k, v = keys_values(config, layer, h, tile.view, rotated=False)
        q = queries(config, layer, at(h, tile.read), there, rotated=False)
        of_queries, of_keys = ((x.cos[layer.rope], x.sin[layer.rope]) for x in (there, tile.view))
        tokens = Rotated(q, k, v, of_queries, of_keys)
        mask = at(visible(config, tile.view, layer.window), tile.read)
        mixed, kept = self.attend(layer, tile, tokens, mask, isinstance(cache, KVBlocks))
        return mixed, cache.write(kept, tile.columns.block)

    def attend(
        self, layer: Layer, tile: Tile, tokens: Rotated, mask: Array, keep: bool
    ) -> tuple[Heads, KeysValues]:
        """Attend to the tokens of the tile; returns the keys and values seen as well."""
        return self.kernel.over(tokens, mask, keep)


class AfterPrefix(OverPrompts):
    """Rows continue a prefix, whose keys and values are in blocks of exactly its tokens."""

    prefix: KVBlocks = struct.field(kw_only=True)

    def attend(
        self, layer: Layer, tile: Tile, tokens: Rotated, mask: Array, keep: bool
    ) -> tuple[Heads, KeysValues]:
        """Attend to the prefix as well."""
        position = jnp.arange(self.prefix.k.shape[2])
        seen = at(tile.view.positions[:, :, None] - position < layer.window, tile.read)
        return self.kernel.after(
            self.prefix.take(tile.columns.prompt_block), seen, tokens, mask, keep
        )


class ToCache(struct.PyTreeNode):
    """Rows are single tokens, of W decode slots and one more for padding."""

    views: View  # [W, 1]
    prompt: KVBlocks
    length: Int[Array, " W"]  # tokens of its prompt
    decoded: Int[Array, " W"]  # tokens decoded so far
    reach: tuple[int, int] = struct.field(pytree_node=False)  # of prompts, and of decoded tokens
    kernel: DecodeAttention = struct.field(pytree_node=False, default=DecodeAttention())

    def tile(self, columns: Columns, shape: TileShape) -> Tile:
        """Take the view of the rows of a tile."""
        return Tile(columns, of_questions(self.views, columns.question, 1), None)

    def view_layers(self, layers: Layer) -> Layer:
        """Leave the layers as they are."""
        return layers

    def __call__(
        self,
        config: ModelConfig,
        layer: Layer,
        h: Float[Array, "R 1 D"],
        tile: Tile,
        cache: Kept,
    ) -> tuple[Heads, Kept]:
        """Write the token's keys and values to the row's own block, and attend."""
        assert isinstance(cache, KVBlocks)
        columns, nth = tile.columns, self.decoded[tile.columns.question] - 1
        rows = Rows(
            columns.prompt_block,
            columns.block,
            self.length[columns.question],
            nth,
            layer.window[None],
        )
        q, token = queries(config, layer, h, tile.view), keys_values(config, layer, h, tile.view)
        mixed, own = self.kernel(rows, q, token, self.prompt, cache, self.reach)
        return mixed, KVBlocks(*own)


def over_prompts(
    views: View, prefix: KVBlocks | None, read: Array | None, kernel: PromptAttention
) -> OverPrompts:
    """Make the mode of prompts, or of what continues a prefix."""
    if prefix is None:
        return OverPrompts(views, read, kernel)
    return AfterPrefix(views, read, kernel, prefix=prefix)


def kv_block(config: ModelConfig, tokens: int, dtype: DTypeLike) -> KVBlocks:
    """Return the shapes of the keys and values of so many tokens."""
    shape: Any = jax.ShapeDtypeStruct((config.num_kv_heads, tokens, config.head_dim), dtype)
    return KVBlocks(shape, shape)


class Kind(NamedTuple):
    """How layers of a kind run, and what they keep."""

    over_prompts: Callable[..., Mode]
    to_cache: Callable[..., Mode]
    block: Callable[[ModelConfig, int, DTypeLike], Any]


KINDS = {Layer: Kind(over_prompts, ToCache, kv_block)}  # by the class of a stack


def of_questions(views: View, question: Int[Array, " R"], tokens: int) -> View:
    """Take the view of the first tokens of the question of each row."""
    return View(
        positions=views.positions[question, :tokens],
        branch=views.branch[question, :tokens],
        cos=views.cos[:, question, :tokens],
        sin=views.sin[:, question, :tokens],
    )
