"""`CarefulTorch`: options of many questions on many paths, as a careful user of torch runs them.

It packs the options of a question after one prompt, groups questions of similar lengths, runs the
trie of all their paths breadth first, batches states that need the same layer, runs the last layer
of a path only where the model is read, and joins the products q, k, v and gate, up.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cola_jax.prompts import PROMPT
from cola_jax.scoring import Encoded

Path = tuple[int, ...]
Paths = Sequence[Sequence[Path]]  # for each question
State = tuple[int, Path]  # a row of a group, and the layers that it has run
Results = dict[State, np.ndarray]  # log-probabilities [Q]

BUCKET = 16  # tokens by which the lengths of questions of a group may differ
TILE = 600  # tokens that run a layer together; twice as many where only reads run


class Weights(NamedTuple):
    """A layer, with the products of one input joined."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    o: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Prompts(NamedTuple):
    """Packed prompts of a group, padded to the longest; the first axis is the question."""

    ids: torch.Tensor  # [n, T]
    mask: torch.Tensor  # [n, 1, T, T]
    cos: torch.Tensor  # [n, 1, T, H / 2]
    sin: torch.Tensor
    read: torch.Tensor  # [n, Q]
    targets: torch.Tensor  # [n, Q]

    def take(self, states: Sequence[State]) -> "Prompts":
        """Return the prompts of states."""
        rows = [row for row, _ in states]
        return Prompts(*(field[rows] for field in self))


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
        self.layers = [
            Weights(
                join(layer.input_layernorm),
                join(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                join(layer.self_attn.o_proj),
                join(layer.post_attention_layernorm),
                join(layer.mlp.gate_proj, layer.mlp.up_proj),
                join(layer.mlp.down_proj),
            )
            for layer in model.model.layers
        ]

    def pack(self, encoded: Sequence[Encoded]) -> Prompts:
        """Pad the packed prompts of questions to the longest."""
        ids = padded([np.asarray(each.prompts.ids) for each in encoded], 0)
        branch = padded([np.asarray(each.prompts.branch) for each in encoded], -1)
        positions = padded([np.asarray(each.prompts.positions) for each in encoded], 0)
        visible = (branch[:, None] == PROMPT) | (branch[:, None] == branch[:, :, None])
        frequencies = self.theta ** -(torch.arange(0, self.width, 2).float() / self.width)
        angles = positions[:, None, :, None].float() * frequencies
        return Prompts(
            ids,
            visible.tril()[:, None],
            angles.cos().to(self.dtype),
            angles.sin().to(self.dtype),
            padded([np.asarray(each.prompts.read) for each in encoded], 0),
            padded([np.asarray(each.prompts.targets) for each in encoded], 0),
        )

    def run_layer(
        self, h: torch.Tensor, layer: int, prompts: Prompts, *, reads_only: bool = False
    ) -> torch.Tensor:
        """Run a layer on states [R, T, D]; with `reads_only`, return those that are read."""
        weights = self.layers[layer]
        rows, tokens, width = h.shape
        q_size = self.heads * self.width
        kv_size = self.kv_heads * self.width
        qkv = F.linear(self.rms(h, weights.attention_norm), weights.qkv)
        q, k, v = qkv.split([q_size, kv_size, kv_size], -1)
        k = k.view(rows, tokens, self.kv_heads, self.width).transpose(1, 2)
        k = rotate(k, prompts.cos, prompts.sin)
        v = v.view(rows, tokens, self.kv_heads, self.width).transpose(1, 2)
        mask = prompts.mask
        cos = prompts.cos
        sin = prompts.sin
        if reads_only:
            read = prompts.read[:, :, None]
            q = q.gather(1, read.expand(-1, -1, q_size))
            h = h.gather(1, read.expand(-1, -1, width))
            read = prompts.read[:, None, :, None]
            mask = mask.gather(2, read.expand(-1, 1, -1, tokens))
            cos = cos.gather(2, read.expand(-1, 1, -1, cos.shape[-1]))
            sin = sin.gather(2, read.expand(-1, 1, -1, sin.shape[-1]))
        q = rotate(q.view(rows, -1, self.heads, self.width).transpose(1, 2), cos, sin)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        h = h + F.linear(attended.transpose(1, 2).flatten(2), weights.o)
        gate, up = F.linear(self.rms(h, weights.mlp_norm), weights.gate_up).chunk(2, -1)
        return h + F.linear(F.silu(gate) * up, weights.down)

    def rms(self, h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(h, (h.shape[-1],), weight, self.eps)

    def logprobs(self, h: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """Return the log-probabilities of targets [R, Q] after states [R, Q, D]."""
        logits = F.linear(self.rms(h, self.norm), self.head).float()
        return F.log_softmax(logits, -1).gather(2, targets[:, :, None])[:, :, 0].numpy()


class CarefulTorch:
    """Run paths of encoded questions on a Llama of transformers."""

    def __init__(self, model: Any, encoded: Sequence[Encoded], dtype: torch.dtype):
        self.llama = Llama(model, dtype)
        buckets = [-(-len(np.asarray(each.prompts.ids)) // BUCKET) for each in encoded]
        self.groups: list[list[int]] = [  # of questions
            [q for q, other in enumerate(buckets) if other == bucket]
            for bucket in sorted(set(buckets))
        ]
        self.prompts = [self.llama.pack([encoded[q] for q in group]) for group in self.groups]

    def __call__(self, paths: Paths) -> list[list[np.ndarray]]:
        """Return log-probabilities [Q] of the targets for each question and path."""
        results: list[list[np.ndarray]] = [[] for _ in paths]
        with torch.inference_mode():
            for group, prompts in zip(self.groups, self.prompts, strict=True):
                ends = dict.fromkeys(
                    (row, path) for row, q in enumerate(group) for path in paths[q]
                )
                found = self.run_trie(prompts, list(ends))
                for row, q in enumerate(group):
                    results[q] = [found[row, path] for path in paths[q]]
        return results

    def run_trie(self, prompts: Prompts, ends: list[State]) -> Results:
        """Run the trie of the paths of a group breadth first, holding states of one depth."""
        results: Results = {}
        embedded = F.embedding(prompts.ids, self.llama.embedding)
        states: dict[State, torch.Tensor] = {(row, ()): embedded[row] for row, _ in ends}
        for depth in range(1, 1 + max(len(path) for _, path in ends)):
            inner = dict.fromkeys((row, path[:depth]) for row, path in ends if len(path) > depth)
            following: dict[State, torch.Tensor] = {}
            for tile in tiles_of(list(inner), TILE, prompts):
                before = torch.stack([states[row, path[:-1]] for row, path in tile])
                after = self.llama.run_layer(before, tile[0][1][-1], prompts.take(tile))
                following |= zip(tile, after, strict=True)
            last = [(row, path) for row, path in ends if len(path) == depth]
            for tile in tiles_of(last, 2 * TILE, prompts):
                before = torch.stack([states[row, path[:-1]] for row, path in tile])
                taken = prompts.take(tile)
                after = self.llama.run_layer(before, tile[0][1][-1], taken, reads_only=True)
                results |= zip(tile, self.llama.logprobs(after, taken.targets), strict=True)
            states = following
        return results


def tiles_of(states: list[State], tokens: int, prompts: Prompts) -> list[list[State]]:
    """Divide states into tiles that run one layer together, of about as many tokens."""
    by_layer: dict[int, list[State]] = {}
    for row, path in states:
        by_layer.setdefault(path[-1], []).append((row, path))
    size = max(1, tokens // prompts.ids.shape[1])
    return [rows[i : i + size] for rows in by_layer.values() for i in range(0, len(rows), size)]


def padded(rows: Sequence[np.ndarray], fill: int) -> torch.Tensor:
    """Stack rows of integers, padded on the right to the longest."""
    out = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return torch.tensor(out)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys by the angles of their positions."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
