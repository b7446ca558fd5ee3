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
from cola_jax.execute.kv_cache import Kept, KVBlocks, kv_page
from cola_jax.execute.layout import TileShape
from cola_jax.execute.packed import (
    ByRow,
    Tile,
    attend_in_blocks,
    from_rows,
    pack_rows,
    single_tokens,
)
from cola_jax.execute.plan import TileColumns
from cola_jax.kernels.attention import PromptAttention, Rotated
from cola_jax.kernels.decode import DecodeAttention, Rows
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


@runtime_checkable
class Mode(Protocol):
    """How layers of a kind run the rows of tiles; a pytree."""

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Take the tokens of a tile from the arrays of the batch."""
        ...

    def view_layers(self, layers: Any) -> Any:
        """View a stack of layers in the shapes in which the mode takes its products."""
        ...

    def __call__(
        self, config: ModelConfig, layer: Any, h: Float[Array, "_ _ S"], tile: Tile, cache: Any
    ) -> tuple[Heads, Any]:
        """Mix the tokens of a tile, at the positions read, and write to the cache."""
        ...


class OverPrompts(struct.PyTreeNode):
    """Rows are prompts, whose tokens see earlier ones of their own branch and of the prompt."""

    views: View  # [B, T]
    read: Int[Array, "B Q"] | None = None
    pages: Int[Array, "N n"] | None = None  # of each block that is written; one page each if None
    kernel: PromptAttention = struct.field(pytree_node=False, default=PromptAttention())

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Lay the rows of a tile end to end."""
        return pack_rows(self.views, self.read, columns, shape)

    def view_layers(self, layers: Layer) -> Layer:
        """View a stack of layers as the kernel takes its products."""
        return self.kernel.view_layers(layers)

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Float[Array, "1 n S"], tile: Tile, cache: Kept
    ) -> tuple[Heads, Kept]:
        """Attend with the tokens that are read, and write keys and values to the cache."""
        read_view = view_at_positions(tile.view, tile.read)
        k, v = keys_values(config, layer, h, tile.view, rotated=False)
        q = queries(config, layer, take_positions(h, tile.read), read_view, rotated=False)
        of_queries, of_keys = (rotation(layer, x) for x in (read_view, tile.view))
        tokens = Rotated(q, k, v, of_queries, of_keys, layer.sinks)
        seen = seen_in(config, tile.view, layer.window, tile.read, tile.row[None])
        mixed, kept = self.attend(tile, tokens, seen, isinstance(cache, KVBlocks))
        return mixed, cache.write(kept, pages_of(self.pages, tile.columns.block))

    def attend(
        self, tile: Tile, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Heads, KeysValues]:
        """Attend to the tokens of the tile; return the keys and values of rows to keep as well."""
        if tile.reads is None and not keep:
            mixed = attend_in_blocks(self.kernel, tile, tokens, seen)
            return mixed, (tokens.k, tokens.v)
        by_row = ByRow.of(tile, tokens, seen)
        mixed, kept = self.kernel.over(by_row.tokens, by_row.seen, keep)
        return from_rows(tile, mixed), kept


class AfterPrefix(OverPrompts):
    """Rows continue a prefix, whose keys and values are in blocks of exactly its tokens."""

    prefix: KVBlocks = struct.field(kw_only=True)

    def attend(
        self, tile: Tile, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Heads, KeysValues]:
        """Attend to the prefix as well."""
        by_row = ByRow.of(tile, tokens, seen)
        before = self.prefix.take(tile.columns.prompt_block)
        mixed, kept = self.kernel.after(before, by_row.tokens, by_row.seen, keep)
        return from_rows(tile, mixed), kept


class ToCache(struct.PyTreeNode):
    """Rows are single tokens, of W decode slots and one more for padding."""

    views: View  # [W, 1]
    prompt: KVBlocks
    length: Int[Array, " W"]  # tokens of its prompt
    decoded: Int[Array, " W"]  # tokens decoded so far
    pages: tuple[Int[Array, "N m"], Int[Array, "N n"]]  # of each block of prompts, and of texts
    reach: tuple[int, int] = struct.field(pytree_node=False)  # of prompts, and of decoded tokens
    kernel: DecodeAttention = struct.field(pytree_node=False, default=DecodeAttention())

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Take the tokens of a tile, one of each row."""
        return single_tokens(self.views, columns, shape)

    def view_layers(self, layers: Layer) -> Layer:
        """Leave the layers as they are."""
        return layers

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Float[Array, "R 1 S"], tile: Tile, cache: Kept
    ) -> tuple[Heads, Kept]:
        """Write the token's keys and values to the row's own pages, and attend."""
        assert isinstance(cache, KVBlocks)
        columns = tile.columns
        nth = self.decoded[columns.question] - 1
        length = self.length[columns.question]
        rows = Rows(
            prompt_pages=pages_of(self.pages[0], columns.prompt_block),
            pages=pages_of(self.pages[1], columns.block),
            length=length,
            nth=nth,
            window=layer.window[None],
            sinks=layer.sinks,
        )
        q = queries(config, layer, h, tile.view)
        token = keys_values(config, layer, h, tile.view)
        mixed, own = self.kernel(rows, q, token, self.prompt, cache, self.reach)
        return mixed, KVBlocks(*own)


def pages_of(table: Int[Array, "N n"] | None, block: Int[Array, " R"]) -> Int[Array, "R n"]:
    """Return the pages of blocks, which are pages themselves where there is no table."""
    return block[:, None] if table is None else table[block]


def over_prompts(
    views: View,
    prefix: KVBlocks | None,
    read: Array | None,
    pages: Array | None,
    kernel: PromptAttention,
) -> OverPrompts:
    """Make the mode of prompts, or of prompts that continue a prefix."""
    if prefix is None:
        return OverPrompts(views, read, pages, kernel)
    return AfterPrefix(views, read, pages, kernel, prefix=prefix)


class Kind(NamedTuple):
    """How layers of a kind run, and the page in which they keep some tokens."""

    over_prompts: Callable[..., Mode]
    to_cache: Callable[..., Mode]
    page: Callable[[LayerConfig, int, DTypeLike], Any]


ATTENTION = Kind(over_prompts, ToCache, kv_page)
