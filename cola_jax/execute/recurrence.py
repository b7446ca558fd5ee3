"""Recurrent layers in the engine: what they carry from token to token, in pages, and their modes.

Pages hold the states at the ends of prompts, prefixes and decoded texts, one for each position of
a path, where those of the KV cache hold keys and values of some tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.config import LayerConfig, ModelConfig
from cola_jax.delta import Recurrent
from cola_jax.execute.attention import ATTENTION, Kind, pages_of
from cola_jax.execute.kv_cache import Kept
from cola_jax.execute.layout import TileShape
from cola_jax.execute.packed import Tile, pack_rows, single_tokens
from cola_jax.execute.plan import TileColumns
from cola_jax.kernels.attention import get, put
from cola_jax.model import View, recur, recurrent_shapes, take_positions
from cola_jax.params import Layer
from cola_jax.prompts import PADDING

RecurrentHeads = Float[Array, "R _ N U"]


class RecurrentBlocks(NamedTuple):
    """The fields of `Recurrent` in each of M pages, of which one is for padding."""

    q: Shaped[Array, "M K w H"]
    k: Shaped[Array, "M K w H"]
    v: Shaped[Array, "M N w U"]
    state: Shaped[Array, "M N H U"]

    def write(self, kept: Recurrent, pages: Int[Array, "R n"]) -> "RecurrentBlocks":
        """Write what rows carry to their first pages; they have no others."""
        pairs = zip(self, kept, strict=True)
        return RecurrentBlocks(*(put(x, new.astype(jnp.float32), pages[:, 0]) for x, new in pairs))

    def take(self, page: Int[Array, " R"]) -> Recurrent:
        """Take pages."""
        return Recurrent(*(get(x, page) for x in self))


class RecurrentOverPrompts(struct.PyTreeNode):
    """Rows are prompts, after a prefix or not."""

    views: View  # [B, T]
    prefix: RecurrentBlocks | None = None
    read: Int[Array, "B Q"] | None = None
    pages: Int[Array, "N n"] | None = None  # of each block that is written; one page each if None

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Lay the rows of a tile end to end."""
        return pack_rows(self.views, self.read, columns, shape)

    def view_layers(self, layers: Layer) -> Layer:
        """Leave the layers as they are."""
        return layers

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Float[Array, "1 n D"], tile: Tile, cache: Kept
    ) -> tuple[RecurrentHeads, Kept]:
        """Mix the tokens of rows, and write what they carry at the ends of prompts to the cache."""
        before = None if self.prefix is None else self.prefix.take(tile.columns.prompt_block)
        rows = tile.rows()
        branch = jnp.where(rows.inside, rows.take(tile.view.branch), PADDING)
        mixed, carried = recur(config, layer, h, branch, before, rows.take)
        of_tokens = mixed[jnp.minimum(tile.row, len(mixed) - 1), tile.place][None]
        pages = pages_of(self.pages, tile.columns.block)
        return take_positions(of_tokens, tile.read), cache.write(carried, pages)


class RecurrentToCache(RecurrentOverPrompts):
    """Rows are single tokens; the first continues its prompt, later ones their own text."""

    decoded: Int[Array, " W"] = struct.field(kw_only=True)  # tokens decoded so far
    prompt_pages: Int[Array, "N m"] = struct.field(kw_only=True)  # of each block of prompts

    def tile(self, columns: TileColumns, shape: TileShape) -> Tile:
        """Take the tokens of a tile, one of each row."""
        return single_tokens(self.views, columns, shape)

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Float[Array, "R 1 D"], tile: Tile, cache: Kept
    ) -> tuple[RecurrentHeads, Kept]:
        """Mix the token with what its row carries, and write this to the row's own page."""
        assert isinstance(cache, RecurrentBlocks)
        assert self.prefix is not None
        columns = tile.columns
        first = self.decoded[columns.question] == 1

        def pick(x: Array, y: Array) -> Array:
            return jnp.where(first.reshape(-1, *[1] * (x.ndim - 1)), x, y)

        pages = pages_of(self.pages, columns.block)
        prompt_pages = pages_of(self.prompt_pages, columns.prompt_block)
        states = self.prefix.take(prompt_pages[:, 0]), cache.take(pages[:, 0])
        mixed, carried = recur(config, layer, h, tile.view.branch, jax.tree.map(pick, *states))
        return mixed, cache.write(carried, pages)


def recurrent_page(config: LayerConfig, tokens: int, dtype: DTypeLike) -> RecurrentBlocks:
    """Return the shapes of what is carried, after any number of tokens; in float32."""
    shapes: Any = recurrent_shapes(config)
    blocks: Any = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return RecurrentBlocks(*blocks)


RECURRENT = Kind(
    over_prompts=lambda views, prefix, read, pages, kernel: RecurrentOverPrompts(
        views, prefix, read, pages
    ),
    to_cache=lambda views, prompt, length, decoded, pages, **_: RecurrentToCache(
        views, prompt, decoded=decoded, prompt_pages=pages[0], pages=pages[1]
    ),
    page=recurrent_page,
)


def choose_kind(config: LayerConfig) -> Kind:
    """Choose how layers of this config run."""
    return RECURRENT if config.convolution else ATTENTION
