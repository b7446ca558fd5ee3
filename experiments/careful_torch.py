"""`CarefulTorch`: options of many questions on many paths, as a careful user of torch runs them.

It packs the options of a question after one prompt, runs each state of the trie of a question's
paths once, packs states of all questions that need the same layer end to end, the layer for which
most tokens wait first, and runs the last layer of a path and the head only where the model is read,
once where several options read the same position. Products of one input are joined.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cola_jax.prompts import PROMPT
from cola_jax.scoring import Encoded

Path = tuple[int, ...]
Paths = Sequence[Sequence[Path]]  # for each question
State = tuple[int, Path]  # a question, and the layers that it has run

TILE = 600  # tokens that run a layer together
READS = 256  # positions whose logits are made at a time


class Weights(NamedTuple):
    """A layer, with the products of one input joined."""

    attention_norm: torch.Tensor
    q: torch.Tensor  # of the last layer, which needs few queries
    kv: torch.Tensor
    qkv: torch.Tensor  # both, of which they are views
    o: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Prompt(NamedTuple):
    """The packed prompt of a question."""

    ids: torch.Tensor  # [T]
    mask: torch.Tensor  # [T, T]
    cos: torch.Tensor  # [T, H / 2]
    sin: torch.Tensor
    read: torch.Tensor  # [W], distinct
    position: np.ndarray  # [Q] of each read, among the distinct ones
    targets: np.ndarray  # [Q]


class Rows(NamedTuple):
    """The tokens of a tile's rows as a rectangle for attention: indices of packed tokens."""

    tokens: torch.Tensor  # [R, T], those of padding any
    queries: torch.Tensor  # [M], packed tokens with queries
    places: torch.Tensor  # [M], where they are in a rectangle of queries
    rectangle: torch.Tensor  # [R, Q], of queries
    mask: torch.Tensor  # [R, 1, Q, T]
    cos: torch.Tensor  # [N, 1, H / 2]
    sin: torch.Tensor


class Llama:
    """A Llama of transformers, in a dtype, whose layers are called one by one."""

    def __init__(self, model: Any, dtype: torch.dtype):
        def join(*products: Any) -> torch.Tensor:
            return torch.cat([product.weight.data.to(dtype) for product in products])

        config = model.config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.width = config.hidden_size // self.heads  # of a head
        self.eps = config.rms_norm_eps
        self.theta = config.rope_parameters["rope_theta"]
        self.dtype = dtype
        self.embedding = join(model.model.embed_tokens)
        self.norm = join(model.model.norm)
        self.head = join(model.lm_head)
        self.layers = []
        for layer in model.model.layers:
            attention = layer.self_attn
            qkv = join(attention.q_proj, attention.k_proj, attention.v_proj)
            size = self.heads * self.width
            self.layers.append(
                Weights(
                    join(layer.input_layernorm),
                    qkv[:size],
                    qkv[size:],
                    qkv,
                    join(attention.o_proj),
                    join(layer.post_attention_layernorm),
                    join(layer.mlp.gate_proj, layer.mlp.up_proj),
                    join(layer.mlp.down_proj),
                )
            )

    def prompt(self, encoded: Encoded) -> Prompt:
        """Prepare the packed prompt of a question."""
        ids, branch, positions = (
            torch.tensor(np.asarray(x), dtype=torch.int64)
            for x in (encoded.prompts.ids, encoded.prompts.branch, encoded.prompts.positions)
        )
        visible = (branch[None] == PROMPT) | (branch[None] == branch[:, None])
        frequencies = self.theta ** -(torch.arange(0, self.width, 2).float() / self.width)
        angles = positions[:, None].float() * frequencies
        read, position = np.unique(np.asarray(encoded.prompts.read), return_inverse=True)
        return Prompt(
            ids,
            visible.tril(),
            angles.cos().to(self.dtype),
            angles.sin().to(self.dtype),
            torch.tensor(read, dtype=torch.int64),
            position,
            np.asarray(encoded.prompts.targets),
        )

    def run_layer(self, h: torch.Tensor, layer: int, rows: Rows, last: bool) -> torch.Tensor:
        """Run a layer on packed states [N, D]; return those with queries [M, D]."""
        weights = self.layers[layer]
        q_size = self.heads * self.width
        kv_size = self.kv_heads * self.width
        x = self.rms(h, weights.attention_norm)
        if last:
            q = F.linear(x[rows.queries], weights.q)
            k, v = F.linear(x, weights.kv).split([kv_size, kv_size], -1)
            h = h[rows.queries]
            cos = rows.cos[rows.queries]
            sin = rows.sin[rows.queries]
        else:
            q, k, v = F.linear(x, weights.qkv).split([q_size, kv_size, kv_size], -1)
            cos = rows.cos
            sin = rows.sin
        q = rotate(q.unflatten(-1, (self.heads, self.width)), cos, sin)
        k = rotate(k.unflatten(-1, (self.kv_heads, self.width)), rows.cos, rows.sin)
        v = v.unflatten(-1, (self.kv_heads, self.width))
        attended = F.scaled_dot_product_attention(
            q[rows.rectangle].transpose(1, 2),
            k[rows.tokens].transpose(1, 2),
            v[rows.tokens].transpose(1, 2),
            attn_mask=rows.mask,
            enable_gqa=True,
        )
        attended = attended.transpose(1, 2).flatten(2).flatten(0, 1)[rows.places]
        h = h + F.linear(attended, weights.o)
        gate, up = F.linear(self.rms(h, weights.mlp_norm), weights.gate_up).chunk(2, -1)
        return h + F.linear(F.silu(gate).mul_(up), weights.down)

    def rms(self, h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(h, (h.shape[-1],), weight, self.eps)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """Return the logits after states [M, D]."""
        return F.linear(self.rms(h, self.norm), self.head).float()


class Waiting(NamedTuple):
    """A state to run, by the layers up to its own, and the state before its last layer."""

    state: State
    h: torch.Tensor  # [T, D], before the layer


class CarefulTorch:
    """Run paths of encoded questions on a Llama of transformers."""

    def __init__(self, model: Any, encoded: Sequence[Encoded], dtype: torch.dtype):
        self.llama = Llama(model, dtype)
        self.prompts = [self.llama.prompt(each) for each in encoded]

    def __call__(self, paths: Paths) -> list[list[np.ndarray]]:
        """Return log-probabilities [Q] of the targets for each question and path."""
        with torch.inference_mode():
            ends = self.run_trie(paths)
            read = self.read(ends)
        return [[read[q, path] for path in row] for q, row in enumerate(paths)]

    def run_trie(self, paths: Paths) -> list[tuple[State, torch.Tensor]]:
        """Run the trie of all paths; return the states [W, D] at the read positions of each."""
        ended = {(q, path) for q, row in enumerate(paths) for path in row}
        children: dict[State, list[State]] = {}
        for q, path in ended:
            for n in range(len(path), 0, -1):
                siblings = children.setdefault((q, path[: n - 1]), [])
                if (q, path[:n]) in siblings:
                    break
                siblings.append((q, path[:n]))
        layers = len(self.llama.layers)
        waiting: list[list[Waiting]] = [[] for _ in range(layers)]
        last: list[list[Waiting]] = [[] for _ in range(layers)]
        tokens = [0] * layers

        def enqueue(before: State, h: torch.Tensor) -> None:
            for q, path in children.get(before, ()):
                layer = path[-1]
                if (q, path) in ended:
                    last[layer].append(Waiting((q, path), h))
                if (q, path) in children:
                    waiting[layer].append(Waiting((q, path), h))
                    tokens[layer] += len(h)

        for q, prompt in enumerate(self.prompts):
            enqueue((q, ()), F.embedding(prompt.ids, self.llama.embedding))
        while any(tokens):
            layer = max(range(layers), key=tokens.__getitem__)
            if tokens[layer] < TILE:  # the states of low layers soon wait at those above
                layer = next(i for i in range(layers) if tokens[i])
            tile, waiting[layer] = first_tokens(waiting[layer], TILE)
            tokens[layer] -= sum(len(each.h) for each in tile)
            after = self.run_tile(tile, layer, last=False)
            for each, h in zip(tile, after, strict=True):
                enqueue(each.state, h)
        ends = []
        for layer, states in enumerate(last):
            for tile in tiles_of(states, 2 * TILE):
                after = self.run_tile(tile, layer, last=True)
                ends += [(each.state, h) for each, h in zip(tile, after, strict=True)]
        return ends

    def run_tile(
        self, tile: Sequence[Waiting], layer: int, *, last: bool
    ) -> Sequence[torch.Tensor]:
        """Run a layer on the states of a tile."""
        prompts = [self.prompts[each.state[0]] for each in tile]
        h = torch.cat([each.h for each in tile])
        after = self.llama.run_layer(h, layer, rows_of(prompts, last), last)
        return after.split([len(each.read if last else each.ids) for each in prompts])

    def read(self, ends: Sequence[tuple[State, torch.Tensor]]) -> dict[State, np.ndarray]:
        """Read the log-probabilities [Q] of targets, positions of several paths together."""
        h = torch.cat([each for _, each in ends])
        path = np.repeat(np.arange(len(ends)), [len(each) for _, each in ends])
        first = np.searchsorted(path, np.arange(len(ends)))
        prompts = [self.prompts[q] for (q, _), _ in ends]
        rows = np.concatenate([i + each.position for i, each in zip(first, prompts, strict=True)])
        targets = np.concatenate([each.targets for each in prompts])
        values = np.empty(len(rows), np.float32)
        for start in range(0, len(h), READS):
            here = (rows >= start) & (rows < start + READS)
            logits = self.llama.logits(h[start : start + READS])
            taken = logits[rows[here] - start, targets[here]]
            values[here] = taken - logits.logsumexp(-1)[rows[here] - start]
        ended = np.cumsum([len(each.targets) for each in prompts])
        return {
            state: part for (state, _), part in zip(ends, np.split(values, ended[:-1]), strict=True)
        }


def first_tokens(states: list[Waiting], tokens: int) -> tuple[list[Waiting], list[Waiting]]:
    """Cut states after so many tokens, or a few more or less."""
    ends = np.cumsum([len(each.h) for each in states])
    count = 1 + int(np.argmin(abs(ends - tokens)))
    return states[:count], states[count:]


def tiles_of(states: list[Waiting], tokens: int) -> Iterator[list[Waiting]]:
    """Divide states into tiles of about as many tokens."""
    while states:
        tile, states = first_tokens(states, tokens)
        yield tile


def rows_of(prompts: Sequence[Prompt], last: bool) -> Rows:
    """Lay out the rows of a tile, with queries at all tokens, or where a last layer is read."""
    lengths = [len(each.ids) for each in prompts]
    asked = [each.read if last else torch.arange(len(each.ids)) for each in prompts]
    counts = [len(each) for each in asked]
    start = np.cumsum([0, *lengths[:-1]]).tolist()
    begin = np.cumsum([0, *counts[:-1]]).tolist()
    longest = max(lengths)
    most = max(counts)
    mask = torch.zeros((len(prompts), 1, most, longest), dtype=torch.bool)
    for row, (prompt, queries) in enumerate(zip(prompts, asked, strict=True)):
        mask[row, 0, : len(queries), : len(prompt.ids)] = prompt.mask[queries]
    mask[:, :, :, 0] = True  # the first token, also for padding: a softmax of nothing is NaN
    queries = torch.cat([i + each for i, each in zip(start, asked, strict=True)])
    return Rows(
        tokens=rectangle(start, lengths),
        queries=queries,
        places=places(counts, most),
        rectangle=rectangle(begin, counts),
        mask=mask,
        cos=torch.cat([each.cos for each in prompts])[:, None],
        sin=torch.cat([each.sin for each in prompts])[:, None],
    )


def rectangle(start: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
    """Return the indices [R, T] of packed tokens; padding repeats the last of a row."""
    last = torch.tensor(lengths)[:, None] - 1
    return torch.tensor(start)[:, None] + torch.arange(max(lengths)).minimum(last)


def places(lengths: Sequence[int], width: int) -> torch.Tensor:
    """Return the places of packed tokens in a rectangle of rows."""
    return torch.cat([row * width + torch.arange(n) for row, n in enumerate(lengths)])


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys by the angles of their positions."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
