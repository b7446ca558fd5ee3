"""A TPU kernel for decode steps: attention that reads the KV cache where it lies.

Without it, XLA gathers the pages of a tile's rows before it multiplies, writes the token of each
row by an operation of its own, and reads pages to their ends. JAX's own paged kernels take one
list of pages for each row, filled from the first token to the last; here a row reads a prompt's
pages that others share, filled in part, and then its own, within a window that varies by layer.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Shaped

from cola_jax.attention import MASKED, KeysValues
from cola_jax.kernels.decode import DecodeAttention, Rows

SCALARS = 5  # fields of Rows, without sinks
WRITTEN = 16  # decoded tokens that are written together
PAGE_BYTES = 2**19  # of keys that are on the chip at a time, and as many of values


@dataclasses.dataclass(frozen=True)
class TpuDecodeAttention(DecodeAttention):
    """The kernel, on the devices of a mesh, which split the heads.

    XLA lays pages of narrower heads out with another axis last, and would copy all of them.
    """

    mesh: Mesh | None = None  # of several devices
    interpret: bool = False  # without the device, for tests

    def on(self, mesh: Mesh) -> "TpuDecodeAttention":
        """Return the kernel for several devices, which split the heads."""
        return dataclasses.replace(self, mesh=mesh)

    def __call__(
        self,
        rows: Rows,
        q: Float[Array, "R 1 N H"],
        token: KeysValues,
        prompt: KeysValues,
        own: KeysValues,
        reach: tuple[int, int],
    ) -> tuple[Float[Array, "R 1 N H"], KeysValues]:
        """Attend to pages where they lie, and write the token [R, 1, K, H] to them."""
        run = functools.partial(decode_attention, reach=reach, interpret=self.interpret)
        if self.mesh is not None:
            heads = PartitionSpec(None, "tensor")
            run = jax.shard_map(
                run,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), heads, heads, heads, heads),
                out_specs=heads,
                check_vma=False,
            )
        k, v = token
        mixed, k, v = run(rows, q[:, 0], (k[:, 0], v[:, 0]), prompt, own)
        return mixed[:, None], (k, v)


def decode_attention(
    rows: Rows,
    q: Float[Array, "R N H"],
    token: tuple[Float[Array, "R K H"], Float[Array, "R K H"]],
    prompt: tuple[Float[Array, "_ K _ H"], Float[Array, "_ K _ H"]],
    own: tuple[Float[Array, "M K X H"], Float[Array, "M K X H"]],
    *,
    reach: tuple[int, int],
    interpret: bool = False,
) -> tuple[Float[Array, "R N H"], Shaped[Array, "M K X H"], Shaped[Array, "M K X H"]]:
    """Attend with a token of each row to its prompt, to earlier decoded tokens, and to itself.

    `reach` bounds the tokens of prompts, and the decoded tokens, that one included. Return the own
    pages of the rows as well, updated in place with the keys and values of the token.
    """
    count, heads, width = q.shape
    groups = own[0].shape[1]
    q = q.reshape(count, groups, heads // groups, width)
    run = tpu_call(q, prompt, own, reach, interpret)
    out, k, v = run(*rows[:SCALARS], q, *(x[:, :, None] for x in token), *prompt, *own)
    return out.reshape(count, heads, width), k, v


def tpu_call(q: Array, prompt: Any, own: Any, reach: tuple[int, int], interpret: bool) -> Any:
    """Build the call of the kernel for these shapes: rows by steps, a page of each part a step."""
    count, groups, queries, width = q.shape
    sizes = prompt[0].shape[2], own[0].shape[2]
    steps = max(pl.cdiv(tokens, size) for tokens, size in zip(reach, sizes, strict=True))

    def spec(tokens: int, index: Callable[..., tuple[Any, Any]]) -> pl.BlockSpec:
        """Return the part of an array that a step takes: a page, and tokens in it."""

        def of_step(r: Any, i: Any, *scalars: Any) -> tuple[Any, ...]:
            page, place = index(Rows(*scalars), r, i)
            return page, 0, place, 0

        return pl.BlockSpec((1, groups, tokens, width), of_step)

    def nearest(i: Any, seen: tuple[Any, Any], size: int) -> Any:
        """Return the page to read in a step; a page that stays the same is not read again."""
        return 0 if steps == 1 else jnp.clip(i, *seen_pages(seen, size))

    a_row, a_token = (spec(size, lambda rows, r, i: (r, 0)) for size in (queries, 1))
    of_prompt = spec(
        sizes[0],
        lambda rows, r, i: (rows.prompt_pages[r, nearest(i, seen_prompt(rows, r), sizes[0])], 0),
    )
    of_own = spec(
        sizes[1], lambda rows, r, i: (rows.pages[r, nearest(i, seen_own(rows, r), sizes[1])], 0)
    )

    def last_written(rows: Rows, r: Any, i: Any) -> tuple[Any, Any]:
        page = jax.lax.div(rows.nth[r], sizes[1])
        return rows.pages[r, page], jax.lax.div(rows.nth[r] - page * sizes[1], WRITTEN)

    written = spec(WRITTEN, last_written)
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, *own)]
    state = (groups, queries, 1), (groups, queries, 1), (groups, queries, width)
    return pl.pallas_call(
        functools.partial(tpu_kernel, sizes=sizes, scale=width**-0.5),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=SCALARS,
            grid=(count, steps),
            in_specs=[a_row, a_token, a_token, of_prompt, of_prompt, of_own, of_own],
            out_specs=[a_row, written, written],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in state],
        ),
        out_shape=like,
        input_output_aliases={10: 1, 11: 2},  # a row's own pages
        interpret=interpret,
        # a chip of two cores gives each half of the rows
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        name="decode_attention",
    )


def page_tokens(token: int) -> int:
    """Return the most tokens of a page, given the bytes of a token's keys."""
    return max(WRITTEN, 1 << ((PAGE_BYTES // token).bit_length() - 1))


def seen_prompt(rows: Rows, r: Any) -> tuple[Any, Any]:
    """Return the first token of a prompt that a row sees, and the one after the last."""
    now = rows.length[r] + rows.nth[r]
    return jnp.maximum(now - rows.window[0] + 1, 0), rows.length[r]


def seen_own(rows: Rows, r: Any) -> tuple[Any, Any]:
    """Return the same of its own pages, the new token included."""
    return jnp.maximum(rows.nth[r] - rows.window[0] + 1, 0), rows.nth[r] + 1


def seen_pages(seen: tuple[Any, Any], size: int) -> tuple[Any, Any]:
    """Return the first and the last page with a token that is seen; the last alone for none."""
    first, end = seen
    last = jax.lax.div(end - 1, size)
    return jnp.minimum(jax.lax.div(first, size), last), last


def tpu_kernel(*refs: Any, sizes: tuple[int, int], scale: float) -> None:
    """Attend to one page of the prompt and one of the decoded tokens of a row."""
    rows = Rows(*refs[:SCALARS])
    q, k_new, v_new, prompt_k, prompt_v, own_k, own_v, out, put_k, put_v, *state = refs[SCALARS:]
    r = pl.program_id(0)
    i = pl.program_id(1)
    top, total, mixed = state

    @pl.when(i == 0)
    def _():
        top[...] = jnp.full(top.shape, MASKED, top.dtype)
        total[...] = jnp.zeros(total.shape, total.dtype)
        mixed[...] = jnp.zeros(mixed.shape, mixed.dtype)

    seen = seen_prompt(rows, r)
    first, last = seen_pages(seen, sizes[0])

    @pl.when((i >= first) & (i <= last) & (seen[0] < seen[1]))
    def _():
        tpu_attend(state, q[0], prompt_k[0], prompt_v[0], seen, i * sizes[0], scale)

    seen = seen_own(rows, r)
    first, last = seen_pages(seen, sizes[1])

    @pl.when((i >= first) & (i <= last))
    def _():
        nth = rows.nth[r] - i * sizes[1]
        k = insert_token(own_k[0], k_new[0], nth)
        v = insert_token(own_v[0], v_new[0], nth)
        tpu_attend(state, q[0], k, v, seen, i * sizes[1], scale)

    @pl.when(i == last)
    def _():
        nth = rows.nth[r] - i * sizes[1]
        start = pl.multiple_of(jax.lax.div(nth, WRITTEN) * WRITTEN, WRITTEN)
        for put, page, token in ((put_k, own_k, k_new), (put_v, own_v, v_new)):
            put[0] = insert_token(page[0, :, pl.ds(start, WRITTEN)], token[0], nth - start)

    @pl.when(i == pl.num_programs(1) - 1)
    def _():
        out[0] = (mixed[...] / total[...]).astype(out.dtype)


def tpu_attend(
    state: list[Any],
    q: Array,
    k: Array,
    v: Array,
    seen: tuple[Any, Any],
    start: Any,
    scale: float,
) -> None:
    """Add a page of tokens to a softmax, in float32."""
    top, total, mixed = state
    batch = ((0,), (0,))
    scores = jax.lax.dot_general(q, k, (((2,), (2,)), batch), preferred_element_type=jnp.float32)
    scores = jnp.where(inside_window(scores.shape, 2, start, seen), scores * scale, MASKED)
    peak = jnp.maximum(top[...], scores.max(axis=-1, keepdims=True))
    shares = jnp.exp(scores - peak)
    before = jnp.exp(top[...] - peak)
    # stale masked tokens may hold NaN, and 0 * NaN is NaN
    v = jnp.where(inside_window(v.shape, 1, start, seen), v, 0)
    now = jax.lax.dot_general(
        shares.astype(v.dtype), v, (((2,), (1,)), batch), preferred_element_type=jnp.float32
    )
    top[...] = peak
    total[...] = total[...] * before + shares.sum(axis=-1, keepdims=True)
    mixed[...] = mixed[...] * before + now


def insert_token(tokens: Array, token: Array, nth: Any) -> Array:
    """Put a token [K, 1, H] in the place of the nth [K, X, H]."""
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    return jnp.where(place == nth, token, tokens)


def inside_window(shape: tuple[int, ...], axis: int, start: Any, seen: tuple[Any, Any]) -> Array:
    """Return which tokens, along an axis, are seen."""
    place = start + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return (place >= seen[0]) & (place < seen[1])
