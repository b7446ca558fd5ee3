"""`CarefulTorch`: options of many questions on many paths, as a careful user of torch runs them.

It packs the options of a question after one prompt, runs the trie of all paths breadth first,
batches the states of questions of like length that need the same layer, runs the last layer of a
path only where the model is read, joins q, k, v and gate, up, and runs the common
beginning of prompts once for each path.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from cola_jax.prompts import PROMPT
from cola_jax.scoring import Encoded

Paths = Sequence[Sequence[tuple[int, ...]]]  # for each question
State = tuple[int, tuple[int, ...]]  # a question, and the layers that it has run

LIKE = 16  # tokens by which the lengths of questions that run together may differ
TILE = 600  # tokens that run a layer together


class Weights(NamedTuple):
    """A layer, with the products of one input joined."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    o: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class View(NamedTuple):
    """Tensors of prompts padded to one length; the first axis is the prompt."""

    ids: torch.Tensor  # [n, T]
    mask: torch.Tensor  # [n, 1, T, S + T], S tokens of the common prefix first
    cos: torch.Tensor  # [n, 1, T, H / 2]
    sin: torch.Tensor
    read: torch.Tensor  # [n, Q]
    targets: torch.Tensor  # [n, Q]

    def take(self, rows: Sequence[int]) -> "View":
        return View(*(field[list(rows)] for field in self))


def with_last_tokens(encoded: Encoded) -> dict[str, np.ndarray]:
    """Return a question's tokens with the last token of each option, which nothing reads."""
    prompts = encoded.prompts
    fields = {name: np.asarray(getattr(prompts, name)) for name in ("ids", "positions", "branch")}
    length = int((fields["branch"] == PROMPT).sum())
    targets, options = np.asarray(prompts.targets), range(int(encoded.option.max()) + 1)
    answers = [targets[encoded.option == j] for j in options]
    more = {
        "ids": [answer[-1] for answer in answers],
        "positions": [length + len(answer) - 1 for answer in answers],
        "branch": [j + 1 for j in options],
    }
    return {name: np.concatenate([fields[name], more[name]]) for name in fields}


class CarefulTorch:
    """Run paths of encoded questions on a Llama of transformers."""

    def __init__(
        self,
        model: Any,
        encoded: Sequence[Encoded],
        dtype: torch.dtype,
        prefix: int = 0,
        last_tokens: bool = False,
    ):
        """Join weights, and group the questions by length.

        Args:
          prefix: S, tokens with which all prompts begin, to run once for each path.
          last_tokens: run the last token of each option too, though nothing reads it.
        """
        config, self.prefix, self.dtype = model.config, prefix, dtype
        self.heads, self.kv = config.num_attention_heads, config.num_key_value_heads
        self.head, self.eps = config.hidden_size // self.heads, config.rms_norm_eps
        frequencies = torch.arange(0, self.head, 2).float() / self.head
        self.frequencies = 1 / config.rope_parameters["rope_theta"] ** frequencies
        self.layers = [self.weights(layer) for layer in model.model.layers]
        heads = model.model.embed_tokens, model.model.norm, model.lm_head
        self.embedding, self.norm, self.head_weight = (x.weight.data.to(dtype) for x in heads)
        fields = [
            with_last_tokens(each)
            if last_tokens
            else {k: np.asarray(getattr(each.prompts, k)) for k in ("ids", "positions", "branch")}
            for each in encoded
        ]
        if prefix:
            self.common = self.view([{k: x[:prefix] for k, x in fields[0].items()}], None)
        lengths = [len(each["ids"]) - prefix for each in fields]
        self.groups: list[View] = []
        self.place: dict[int, tuple[int, int]] = {}  # group and row of each question
        for key in sorted({-(-length // LIKE) for length in lengths}):
            questions = [q for q, length in enumerate(lengths) if -(-length // LIKE) == key]
            self.place |= {q: (len(self.groups), row) for row, q in enumerate(questions)}
            reads = [encoded[q].prompts for q in questions]
            self.groups.append(self.view([fields[q] for q in questions], reads))

    def weights(self, layer: Any) -> Weights:
        attention, mlp = layer.self_attn, layer.mlp
        join = lambda *products: torch.cat([p.weight.data.to(self.dtype) for p in products])  # noqa: E731
        return Weights(
            join(layer.input_layernorm),
            join(attention.q_proj, attention.k_proj, attention.v_proj),
            join(attention.o_proj),
            join(layer.post_attention_layernorm),
            join(mlp.gate_proj, mlp.up_proj),
            join(mlp.down_proj),
        )

    def view(self, fields: Sequence[dict[str, np.ndarray]], reads: Sequence[Any] | None) -> View:
        """Pad tokens after the prefix, or those of the prefix itself, to the longest."""
        skip = 0 if reads is None else self.prefix
        longest = max(len(each["ids"]) for each in fields) - skip

        def padded(name: str, fill: int) -> torch.Tensor:
            rows = [np.asarray(each[name], np.int64)[skip:] for each in fields]
            return torch.tensor(
                np.stack([np.pad(r, (0, longest - len(r)), constant_values=fill) for r in rows])
            )

        branch = padded("branch", -1)
        same = (branch[:, None] == PROMPT) | (branch[:, None] == branch[:, :, None])
        before = torch.ones(len(fields), longest, skip, dtype=torch.bool)
        mask = torch.cat([before, same.tril()], -1)[:, None]
        angles = padded("positions", 0)[:, None, :, None].float() * self.frequencies
        read = targets = torch.zeros(len(fields), 0, dtype=torch.long)
        if reads is not None:
            most = max(len(np.asarray(each.read)) for each in reads)
            pad = lambda x: np.pad(np.asarray(x, np.int64), (0, most - len(np.asarray(x))))  # noqa: E731
            read = torch.tensor(np.stack([pad(np.asarray(each.read) - skip) for each in reads]))
            targets = torch.tensor(np.stack([pad(each.targets) for each in reads]))
            read = read.clamp(min=0)  # of padding
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        return View(padded("ids", 0), mask, cos, sin, read, targets)

    def __call__(self, paths: Paths) -> list[list[np.ndarray]]:
        """Return log-probabilities [Q] of the targets for each question and path."""
        with torch.inference_mode():
            return self.run(paths)

    def run(self, paths: Paths) -> list[list[np.ndarray]]:
        """Run the trie of all paths breadth first; only the states of one depth are held."""
        pairs = dict.fromkeys((q, path) for q, row in enumerate(paths) for path in row)
        embedded = [F.embedding(group.ids, self.embedding) for group in self.groups]
        states: dict[State, torch.Tensor] = {}
        for q, (group, row) in self.place.items():
            states[q, ()] = embedded[group][row]
        shared = {(): F.embedding(self.common.ids, self.embedding)[0]} if self.prefix else {}
        out: dict[State, np.ndarray] = {}
        for depth in range(1, 1 + max(len(path) for _, path in pairs)):
            inner = dict.fromkeys((q, p[:depth]) for q, p in pairs if len(p) > depth)
            last = [(q, p) for q, p in pairs if len(p) == depth]
            before: dict[tuple[int, ...], Any] = {}
            if self.prefix:
                going_on = {path for _, path in inner}
                shared, before = self.run_prefix(shared, going_on, [p for _, p in (*inner, *last)])
            new: dict[State, torch.Tensor] = {}
            for tile, view in self.tiles(inner):
                h = torch.stack([states[q, p[:-1]] for q, p in tile])
                h = self.layer(h, tile[0][1][-1], view, self.stacked(before, tile))
                new |= zip(tile, h, strict=True)
            for tile, view in self.tiles(last):
                h = torch.stack([states[q, p[:-1]] for q, p in tile])
                h = self.layer(h, tile[0][1][-1], view, self.stacked(before, tile), read=True)
                out |= zip(tile, self.logprobs(h, view.targets), strict=True)
            states = new
        return [[out[q, path] for path in row] for q, row in enumerate(paths)]

    def run_prefix(
        self, states: dict, going_on: set[tuple[int, ...]], paths: Sequence[tuple[int, ...]]
    ) -> tuple[dict, dict]:
        """Run the last layer of each path on the prefix; return states, and keys with values.

        A path that does not go on needs the keys and values alone.
        """
        new: dict[tuple[int, ...], torch.Tensor] = {}
        kept: dict[tuple[int, ...], Any] = {}
        size = max(1, TILE // self.prefix)
        alike: dict[tuple[int, bool], list[tuple[int, ...]]] = {}
        for path in dict.fromkeys(paths):
            alike.setdefault((path[-1], path not in going_on), []).append(path)
        for (layer, ends), rows in alike.items():
            for i in range(0, len(rows), size):
                tile = rows[i : i + size]
                h = torch.stack([states[path[:-1]] for path in tile])
                keys: list[Any] = []
                view = self.common.take([0] * len(tile))  # which reads nothing
                h = self.layer(h, layer, view, None, read=ends, keep=keys)
                new |= zip(tile, h, strict=True)
                kept |= zip(tile, zip(*keys, strict=True), strict=True)
        return new, kept

    def tiles(self, states: Sequence[State] | dict) -> Iterator[tuple[list[State], View]]:
        """Cut states into tiles of one layer and of questions of like length."""
        alike: dict[tuple[int, int], list[State]] = {}
        for q, path in states:
            alike.setdefault((self.place[q][0], path[-1]), []).append((q, path))
        for (group, _), rows in alike.items():
            view = self.groups[group]
            size = max(1, TILE // view.ids.shape[1])
            for i in range(0, len(rows), size):
                tile = rows[i : i + size]
                yield tile, view.take([self.place[q][1] for q, _ in tile])

    def stacked(self, before: dict, tile: Sequence[State]) -> tuple[torch.Tensor, ...] | None:
        """Stack the keys and values of the prefix on the path of each state."""
        if not before:
            return None
        return tuple(torch.stack(x) for x in zip(*(before[p] for _, p in tile), strict=True))

    def layer(
        self,
        h: torch.Tensor,
        number: int,
        view: View,
        before: tuple[torch.Tensor, ...] | None,
        *,
        read: bool = False,
        keep: list[Any] | None = None,
    ) -> torch.Tensor:
        """Run a layer on states [R, T, D]; with `read`, only where the model is read."""
        w, (rows, tokens, width) = self.layers[number], h.shape
        sizes = [self.heads * self.head, *[self.kv * self.head] * 2]
        q, k, v = F.linear(self.rms(h, w.attention_norm), w.qkv).split(sizes, -1)
        k, v = (x.view(rows, tokens, self.kv, self.head).transpose(1, 2) for x in (k, v))
        k, mask, cos, sin = rotate(k, view.cos, view.sin), view.mask, view.cos, view.sin
        if keep is not None:
            keep += (k, v)
        if before is not None:
            k, v = (torch.cat(x, 2) for x in zip(before, (k, v), strict=True))
        if read:
            at = view.read[:, :, None]
            q, h = q.gather(1, at.expand(-1, -1, sizes[0])), h.gather(1, at.expand(-1, -1, width))
            at = view.read[:, None, :, None]
            cos, sin, mask = (
                x.gather(2, at.expand(-1, 1, -1, x.shape[-1])) for x in (cos, sin, mask)
            )
        q = rotate(q.view(rows, -1, self.heads, self.head).transpose(1, 2), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        h = h + F.linear(mixed.transpose(1, 2).flatten(2), w.o)
        gate, up = F.linear(self.rms(h, w.mlp_norm), w.gate_up).chunk(2, -1)
        return h + F.linear(F.silu(gate) * up, w.down)

    def rms(self, h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(h, (h.shape[-1],), weight, self.eps)

    def logprobs(self, h: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """Return the log-probabilities of targets [R, Q]."""
        logits = F.linear(self.rms(h, self.norm), self.head_weight).float()
        return F.log_softmax(logits, -1).gather(2, targets[:, :, None])[:, :, 0].numpy()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys by the angles of their positions."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
