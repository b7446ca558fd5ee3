"""Gated-DeltaNet layers of Qwen3-Next through the engine: does a second kind of layer fit it?

`python -m experiments.gated_delta` runs tiny random layers (float32, a CPU) as the engine runs
layers that attend: prompts of mixed lengths, packed continuations, a path that repeats a layer,
tokens after a shared prefix, and decoding. It prints the worst difference from transformers.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from flax import struct
from jaxtyping import Array, Float, Int

from cola_jax.config import ModelConfig
from cola_jax.execute.attention import KINDS, Kind, Mode, Tile, of_questions
from cola_jax.execute.decoder import Decoder, Stop
from cola_jax.execute.kv_cache import DecodeRow, NoCache
from cola_jax.execute.placement import layers_of
from cola_jax.execute.plan import Columns, TileShape, Workload
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.execute.worker import Worker, Workers
from cola_jax.kernels.attention import get, put
from cola_jax.model import View, block, norm, project, project_heads, rms_norm, take_positions, view
from cola_jax.params import Layer, Model, layer_at
from cola_jax.path import pad_path
from cola_jax.prompts import PROMPT, Prompts, Readings
from experiments.shapes import llama, random_model

Path = tuple[int, ...]
Run = Callable[[Prompts], Any]

POSITIONS, NEW_TOKENS, LONGEST = 8, 3, 40
L, V, D, F = 2, 97, 48, 64  # layers, vocabulary, width, width of the MLP
K, HK, N, HV = 2, 8, 4, 16  # heads of keys and their width, heads of values and theirs
WINDOW = 3  # tokens before its own that a convolution reads
SHARED = 16  # tokens with which all prompts begin


SHAPE = llama(L + 1, D, N, K, F, V, head_dim=HK, tied=False, norm_offset=1.0)
OURS = dataclasses.replace(SHAPE, norm_eps=1e-2)  # a small one would enlarge errors of rounding
BLOCK = ((WINDOW, 2 * K * HK + N * HV), (N, HK, HV))  # shapes of a convolution's window and a state


class DeltaLayer(Layer, kw_only=True):
    """Gated-DeltaNet layers stacked on L; q, k, v and o have N value heads and K key heads."""

    z: Float[Array, "*L D N V"]
    a: Float[Array, "*L D N"]
    b: Float[Array, "*L D N"]
    convolution: Float[Array, "*L C W"]
    decay: Float[Array, "*L N"]
    step: Float[Array, "*L N"]
    gated_norm: Float[Array, "*L V"]


class RecurrentStates(NamedTuple):
    """What a recurrence carries from token to token, in each of M blocks."""

    window: Float[Array, "M W C"]  # what the convolution reads of the last tokens
    state: Float[Array, "M N H V"]

    def write(self, kept: tuple[Array, Array], block: Int[Array, " R"]) -> "RecurrentStates":
        """Write states to blocks."""
        return RecurrentStates(*(put(x, new, block) for x, new in zip(self, kept, strict=True)))

    def take(self, block: Int[Array, " R"]) -> "RecurrentStates":
        """Take blocks."""
        return RecurrentStates(*(get(x, block) for x in self))


class DeltaOverPrompts(struct.PyTreeNode):
    """Rows are prompts, after a prefix or not; continuations fork from the state at their end."""

    views: View  # [B, T]
    prefix: RecurrentStates | None
    read: Int[Array, "B Q"] | None = None

    def tile(self, columns: Columns, shape: TileShape) -> Tile:
        """Take the view of the rows of a tile."""
        read = None if self.read is None else self.read[columns.question, : shape.reads]
        return Tile(columns, of_questions(self.views, columns.question, shape.tokens), read)

    def view_layers(self, layers: Layer) -> Layer:
        """Leave the layers as they are."""
        return layers

    def __call__(
        self, config: ModelConfig, layer: DeltaLayer, h: Array, tile: Tile, cache: Any
    ) -> tuple[Array, Any]:
        """Run the recurrence, and write the states at the ends of prompts to the cache."""
        mixed, end = recur(config, layer, h, tile.view.branch, self.before(tile, cache))
        return take_positions(mixed, tile.read), cache.write(end, tile.columns.block)

    def before(self, tile: Tile, cache: Any) -> RecurrentStates:
        """Return the states before the tokens of a tile."""
        if self.prefix is None:
            rows = len(tile.columns.block)
            return RecurrentStates(*(jnp.zeros((rows, *shape)) for shape in BLOCK))
        return self.prefix.take(tile.columns.prompt_block)


class DeltaToCache(DeltaOverPrompts):
    """Rows are single tokens; the first continues its prompt, later ones their own block."""

    decoded: Int[Array, " W"] = struct.field(kw_only=True)  # tokens decoded so far

    def before(self, tile: Tile, cache: Any) -> RecurrentStates:
        """Return the states before the token of each row."""
        first = self.decoded[tile.columns.question] == 1
        return select(first, super().before(tile, cache), cache.take(tile.columns.block))


def select(condition: Array, states: RecurrentStates, others: RecurrentStates) -> RecurrentStates:
    """Take the states of the rows [R] where the condition holds, and others elsewhere."""

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, states, others)


def recur(
    config: ModelConfig, layer: DeltaLayer, h: Array, branch: Array, before: RecurrentStates
) -> tuple[Float[Array, "R T N V"], RecurrentStates]:
    """Run `torch_recurrent_gated_delta_rule` after its convolution, token by token.

    Returns:
      What each token reads of its state, and the states at the ends of prompts.
    """
    x = norm(config, h, layer.attention_norm)
    q, k, v, z = (project_heads(config, x, w, None) for w in (layer.q, layer.k, layer.v, layer.z))
    tokens = jnp.concatenate([y.reshape(*h.shape[:2], -1) for y in (q, k, v)], axis=-1)
    rate = jax.nn.sigmoid(project("btd,dn->btn", x, layer.b, None))
    step = jax.nn.softplus(project("btd,dn->btn", x, layer.a, None) + layer.step)
    kept_share = jnp.exp(-jnp.exp(layer.decay) * step)

    def read(carry, token):
        now, end, last = carry
        x, share, rate, branch = token
        now = select((branch > PROMPT) & (branch != last), end, now)
        taps = jnp.concatenate([now.window, x[:, None]], axis=1)
        y = jax.nn.silu(jnp.einsum("rwc,cw->rc", taps, layer.convolution))
        q, k, v = jnp.split(y, [K * HK, 2 * K * HK], axis=-1)
        q, k = (unit(jnp.repeat(y.reshape(-1, K, HK), N // K, axis=1)) for y in (q, k))
        state = now.state * share[..., None, None]
        missing = v.reshape(-1, N, HV) - jnp.einsum("rnhv,rnh->rnv", state, k)
        state += jnp.einsum("rnh,rnv->rnhv", k, missing * rate[..., None])
        now = RecurrentStates(taps[:, 1:], state)
        end = select(branch == PROMPT, now, end)
        return (now, end, branch), jnp.einsum("rnhv,rnh->rnv", state, q * HK**-0.5)

    by_token = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (tokens, kept_share, rate, branch))
    (_, end, _), mixed = jax.lax.scan(read, (before, before, branch[:, 0] * 0), by_token)
    mixed = rms_norm(jnp.moveaxis(mixed, 0, 1), layer.gated_norm, config.norm_eps)
    return (mixed * jax.nn.silu(z)).astype(h.dtype), end


def unit(x: Array) -> Array:
    """Divide by the length of the last axis."""
    return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


KINDS[DeltaLayer] = Kind(
    over_prompts=lambda views, prefix, read, kernel: DeltaOverPrompts(views, prefix, read),
    to_cache=lambda views, prompt, length, decoded, **_: DeltaToCache(
        views, prompt, decoded=decoded
    ),
    block=lambda *_: RecurrentStates(*(jnp.zeros(shape) for shape in BLOCK)),
)


class EachKind(struct.PyTreeNode):
    """Attention and Gated-DeltaNet in one path: the mode and the cache of the layer's kind."""

    modes: tuple[Mode, Mode]

    def tile(self, columns: Columns, shape: TileShape) -> Tile:
        """Take the tile of one of them: they are the same."""
        return self.modes[0].tile(columns, shape)

    def view_layers(self, layers: Layer) -> Layer:
        """View layers as their mode does."""
        return self.modes[isinstance(layers, DeltaLayer)].view_layers(layers)

    def __call__(
        self, config: ModelConfig, layer: Layer, h: Array, tile: Tile, cache: Any
    ) -> tuple[Array, Any]:
        """Run the mode of the layer's kind."""
        number = int(isinstance(layer, DeltaLayer))
        if isinstance(cache, NoCache):
            return self.modes[number](config, layer, h, tile, cache)
        mixed, kept = self.modes[number](config, layer, h, tile, cache[number])
        return mixed, (kept, cache[1]) if number == 0 else (cache[0], kept)


def each(name: str) -> Callable[..., Any]:
    """Make a function that calls that of both kinds, and hands out both prefixes or caches."""

    def make(first: Any, caches: Any, *others: Any, **options: Any) -> EachKind:
        caches = caches or (None, None)
        makers = [getattr(KINDS[kind], name) for kind in (Layer, DeltaLayer)]
        pairs = zip(makers, caches, strict=True)
        return EachKind(tuple(make(first, cache, *others, **options) for make, cache in pairs))

    return make


HYBRID = Kind(
    each("over_prompts"),
    each("to_cache"),
    lambda *of: tuple(KINDS[kind].block(*of) for kind in (Layer, DeltaLayer)),
)


class Theirs:
    """Random layers of transformers, Gated-DeltaNet and an MLP each, with embedding and head."""

    def __init__(self):
        self.config = transformers.Qwen3NextConfig(
            **{"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": L},
            **{"linear_num_key_heads": K, "linear_key_head_dim": HK},
            **{"linear_num_value_heads": N, "linear_value_head_dim": HV},
            **{"linear_conv_kernel_dim": WINDOW + 1, "layer_types": ["linear_attention"] * L},
            **{"mlp_only_layers": list(range(L)), "rms_norm_eps": OURS.norm_eps},
        )
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.model = transformers.Qwen3NextForCausalLM(self.config).eval()
        for weight in self.model.parameters():
            scale = 0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5
            weight.data += scale * torch.randn_like(weight)
        stack = random_model(OURS, "float32").layers  # of which layer L is used
        self.attention = jax.tree.map(lambda x: x if x.ndim < 3 else 8 * x, stack)

    @torch.no_grad()
    def logprobs(self, path: Path, ids: Any, caches: Sequence[Any] | None = None) -> np.ndarray:
        """Run a path on the tokens [T] of one sequence; return log-probabilities [T, V].

        Layer L is ours; `caches` has one for each position of the path.
        """
        x = self.model.model.embed_tokens(torch.tensor(ids))[None]
        for layer, cache in zip(path, caches or [None] * len(path), strict=True):
            if layer < L:
                x = self.model.model.layers[layer](x, None, None, None, cache)
            else:
                padded = np.pad(x.numpy(), ((0, 0), (0, LONGEST - len(ids)), (0, 0)))
                x = torch.tensor(np.array(attending_block(self.attention, padded)))[:, : len(ids)]
        return self.model.lm_head(self.model.model.norm(x))[0].log_softmax(-1).numpy()

    def ours(self) -> Model:
        """Convert the weights."""
        weights = {name: x.numpy() for name, x in self.model.state_dict().items()}
        layers = [ours_of(weights, f"model.layers.{i}.") for i in range(L)]
        stacks = {name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}
        absent: dict[str, Any] = {field.name: None for field in dataclasses.fields(Layer)}
        return Model(
            config=OURS,
            layers=DeltaLayer(**(absent | stacks)),
            embedding=jnp.array(weights["model.embed_tokens.weight"]),
            norm=jnp.array(weights["model.norm.weight"]),
            head=jnp.array(weights["lm_head.weight"].T),
        )


@jax.jit
def attending_block(layers: Layer, h: Array) -> Array:
    """Apply layer L to the states of one sequence."""
    tokens = Prompts.plain(jnp.zeros((1, LONGEST), int))
    return block(OURS, layer_at(OURS, layers, L), h, view(OURS, tokens))


def ours_of(weights: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Convert the weights of one layer."""
    delta = f"{prefix}linear_attn."
    by_key_head = weights[f"{delta}in_proj_qkvz.weight"].reshape(K, -1, D)
    parts = np.split(by_key_head, np.cumsum([HK, HK, N // K * HV]), axis=1)
    heads = zip("qkvz", parts, (HK, HK, HV, HV), strict=True)
    b, a = np.split(weights[f"{delta}in_proj_ba.weight"].reshape(K, -1, D), 2, axis=1)
    return {
        **{name: x.reshape(-1, width, D).transpose(2, 0, 1) for name, x, width in heads},
        **{"a": a.reshape(N, D).T, "b": b.reshape(N, D).T},
        **{"decay": weights[f"{delta}A_log"], "step": weights[f"{delta}dt_bias"]},
        "convolution": weights[f"{delta}conv1d.weight"][:, 0],
        "gated_norm": weights[f"{delta}norm.weight"],
        "o": weights[f"{delta}out_proj.weight"].T.reshape(N, HV, D),
        "attention_norm": weights[f"{prefix}input_layernorm.weight"],
        "mlp_norm": weights[f"{prefix}post_attention_layernorm.weight"],
        **{name: weights[f"{prefix}mlp.{name}_proj.weight"].T for name in ("gate", "up", "down")},
    }


def packed(prompt: int, sizes: Sequence[int]) -> Prompts:
    """Make a question of continuations after a prompt, which is read at its end and in these."""
    branch = np.repeat(np.arange(len(sizes) + 1), [prompt, *sizes])
    positions = np.concatenate([np.arange(prompt), *(prompt + np.arange(n) for n in sizes)])
    ids = np.random.default_rng(prompt).integers(0, V, len(branch))
    ids[:SHARED] = np.arange(min(SHARED, len(ids)))
    read = np.arange(prompt - 1, len(branch))
    return Prompts(ids, positions, branch, read, np.roll(ids, 1)[read])


def reading_errors(theirs: Theirs, run: Run, batch: Sequence[Prompts], paths: Sequence[Path]):
    """Yield what readings differ by from transformers, which runs each continuation alone."""
    readings = run(Prompts.stack(batch))
    for (b, question), (c, path) in itertools.product(enumerate(batch), enumerate(paths)):
        branch, read, targets = map(np.asarray, (question.branch, question.read, question.targets))
        for j in range(branch.max() + 1):
            tokens = np.flatnonzero((branch == PROMPT) | (branch == j))
            logprobs = theirs.logprobs(path, np.asarray(question.ids)[tokens])
            i = np.flatnonzero(branch[read] == j)
            expected = logprobs[np.searchsorted(tokens, read[i]), targets[i]]
            yield np.abs(readings.logprob[b, c, i] - expected).max()


def decoding_errors(theirs: Theirs, run: Run, batch: Sequence[Prompts], paths: Sequence[Path]):
    """Yield what the log-probabilities of decoded tokens differ by."""
    rows = iter(run(Prompts.stack(batch)))
    for question, path in itertools.product(batch, paths):
        row, ids, start = next(rows), np.asarray(question.ids), 0
        caches = [transformers.DynamicCache(config=theirs.config) for _ in path]
        for token, logprob in zip(row.tokens, row.logprob, strict=True):
            if max(path) < L:  # layers of transformers alone, which take the tokens after `start`
                logprobs = theirs.logprobs(path, ids[start:], caches)[-1]
            else:
                logprobs = theirs.logprobs(path, ids)[-1]
            assert token == logprobs.argmax()
            yield abs(logprob - logprobs[token])
            start, ids = len(ids), np.append(ids, token)


def worker_of(theirs: Theirs, hybrid: bool) -> Worker:
    """Make a worker of the layers of transformers, and with `hybrid` of one that attends."""
    (worker,) = Workers(theirs.ours(), tile_tokens=32).workers
    if hybrid:
        worker.kind = HYBRID
        stacks = worker.model.layers, theirs.attention
        worker.layers = [*layers_of(stacks[0]), list(layers_of(stacks[1]))[L]]
    return worker


def compare(theirs: Theirs, lengths: Sequence[int], paths: Sequence[Path], prefix: int = 0):
    """Return the largest errors of readings and of decoding after prompts of these lengths."""
    worker = worker_of(theirs, any(L in path for path in paths))
    workload = Workload(len(paths), POSITIONS, prefix=prefix)
    padded = np.array([[pad_path(path, POSITIONS) for path in paths]] * len(lengths))

    def read(prompts: Prompts) -> Readings:
        with contextlib.closing(PathEvaluator(worker, prompts, workload)) as evaluate:
            return evaluate(padded)

    def decode(prompts: Prompts) -> list[DecodeRow]:
        options = {"max_new_tokens": NEW_TOKENS, "stop": Stop()}
        with contextlib.closing(Decoder(worker, prompts, workload, **options)) as decoder:
            return decoder(padded)

    continued = [packed(length, (2 + i, 3)) for i, length in enumerate(lengths)]
    alone = [packed(length, ()) for length in lengths]
    return (
        max(reading_errors(theirs, read, continued, paths)),
        max(decoding_errors(theirs, decode, alone, paths)),
    )


CASES = {
    "each layer once": ((3, 9, 30), [(0,), (0, 1)], 0),
    "a layer twice": ((3, 9, 30), [(0, 0), (1, 0, 1)], 0),
    "after a prefix": ((17, 21, 30), [(0, 1), (0, 0, 1)], 16),
    "mixed with attention": ((3, 9, 30), [(0, 2, 1), (2, 0, 0, 2)], 0),
    "mixed with attention, after a prefix": ((17, 21, 30), [(0, 2, 1), (2, 0, 0, 2)], 16),
}


def main() -> None:
    """Compare every case."""
    theirs = Theirs()
    print(f"{'largest error of log-probabilities':36} {'read':>8} {'decoded':>8}")
    for name, case in CASES.items():
        read, decoded = compare(theirs, *case)
        print(f"{name:36} {read:8.1e} {decoded:8.1e}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
