"""Each part of each family against transformers, on the inputs that transformers' own part had.

One forward pass of transformers' model is recorded for each variant. A mistake in a family fails
where it is: a norm that is read wrongly fails `norm`, `layer` and `model`, but not `attention`.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cola_jax
from cola_jax.config import ModelConfig
from cola_jax.formats.conversion import locate
from cola_jax.model import (
    attend,
    block,
    feed_forward,
    keys_values,
    mix_attended,
    mlp,
    norm,
    queries,
    recur,
    residual,
    rms_norm,
    seen_in,
    view_of,
)
from cola_jax.moe import mixture
from cola_jax.params import Layer, Model, field_of, kind_of_weight, layer_at
from cola_jax.path import LayerPath, pad_path, parse_path
from cola_jax.prompts import Prompts
from tests import oracle

LENGTHS = 12, 7, 1  # tokens of the rows of a batch, of which the first is the longest
DECODED = 3  # tokens after prompts
POSITIONS = 10  # of all paths: one padded length and one batch compile a model once
RECURRENT = {"linear_attention", "mamba"}
INSIDE = {"value_norm", "router_norm"}  # norms that transformers has inside of another part
RENAMED = {  # between a file and the modules of transformers
    "block_sparse_moe": "mlp",
    "attention_layer_norm": "input_layernorm",
    "feedforward_layer_norm": "post_attention_layernorm",
}


def parts_of(fields: dict[str, Any]) -> Iterator[str]:
    """List the parts of a variant, by the fields of its config."""
    given = {name for name, value in fields.items() if value}
    experts = any(name.endswith("experts") for name in given)
    yield "norm"
    yield "attention"
    if RECURRENT & {*fields.get("layer_types", ())}:
        yield "recurrence"
    if experts:
        yield "mixture"
    if not experts or any("shared" in name or "dense" in name for name in given):
        yield "mlp"
    yield from ("layer", "model", "steps", "tiles", "batched")


def cases() -> Iterator[Any]:
    """List the parts of each variant; those of all but the first of a family are slow."""
    for case in oracle.EACH:
        slow = () if isinstance(case, str) else case.marks
        variant = case if isinstance(case, str) else case.values[0]
        for part in parts_of(oracle.VARIANTS[variant][1]):
            # tiles of steps compile several programs
            marks = pytest.mark.slow if part == "tiles" else slow
            yield pytest.param(variant, part, marks=marks, id=f"{variant}-{part}")


class Call(NamedTuple):
    """A call of a module of transformers: its first argument, and what it returned first."""

    x: jax.Array
    out: np.ndarray


Pairs = Iterator[tuple[jax.Array, np.ndarray]]  # what ours and theirs return for equal arguments


def record(model: Any, ids: np.ndarray) -> dict[str, Call]:
    """Run a model of transformers; return the call of each module by its name, its own by ""."""
    calls: dict[str, Call] = {}

    def first(values: Any) -> Any:
        return values if isinstance(values, torch.Tensor) else next(iter(values), None)

    def hook(name: str, module: Any, args: Any, kwargs: Any, out: Any) -> None:
        x, out = first([*args, *kwargs.values()]), first(out)
        if isinstance(x, torch.Tensor) and isinstance(out, torch.Tensor):
            calls[name] = Call(jnp.asarray(x.numpy()), out.numpy().copy())

    hooks = [
        module.register_forward_hook(functools.partial(hook, name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids).long(), use_cache=False).logits
    for each in hooks:
        each.remove()
    calls[""] = Call(jnp.asarray(ids), logits.numpy())
    return calls


class Place(NamedTuple):
    """A layer of a model, with the model's config."""

    i: int
    config: ModelConfig
    layer: Layer


class Recorded:
    """The calls of a variant, and what our functions return for their arguments."""

    def __init__(self, pair: oracle.Pair):
        self.model: Model = pair.ours
        self.theirs = pair.theirs
        self.ids = oracle.random_ids(len(LENGTHS), max(LENGTHS))
        self.view = view_of(self.model, Prompts.plain(self.ids))
        self.calls = record(self.theirs, self.ids)
        # where files have the weights of each kind of layer, by our field
        self.names: list[dict[str, str]] = [{} for _ in self.model.layers]
        for row in locate(str(pair.folder)).open().rows:
            if "{i}" in row.theirs:
                self.names[kind_of_weight(row.ours)][field_of(row.ours)] = row.theirs

    def layers(self) -> Iterator[Place]:
        config = self.model.config
        for i in range(config.num_layers):
            kind = config.kind_of(i)
            yield Place(i, config, layer_at(config, kind, self.model.layers[kind], i))

    def first_layers(self) -> list[Place]:
        """Return the first layer of each kind, window and rope."""
        found: dict[Any, Place] = {}
        for place in self.layers():
            kind = self.model.config.kind_of(place.i)
            found.setdefault((kind, int(place.layer.window), int(place.layer.rope)), place)
        return list(found.values())

    def module(self, i: int, field: str) -> str:
        """Return the name of the module of layer i that has a weight."""
        theirs = self.names[self.model.config.kind_of(i)][field]
        name = theirs.replace("{i}", str(i)).rpartition(".")[0]
        parts = name.split(".")
        if ".".join(parts[:4]) not in self.calls:
            name = ".".join(RENAMED.get(part, part) for part in parts)
        return name

    def child(self, i: int, field: str) -> str:
        """Return the name of the part of layer i, such as its attention, that has a weight."""
        return ".".join(self.module(i, field).split(".")[:4])

    def norms(self) -> Pairs:
        for i, config, layer in self.first_layers():
            for field in self.names[self.model.config.kind_of(i)]:
                weight = getattr(layer, field)
                if field.endswith("_norm") and field not in INSIDE:
                    x, out = self.calls[self.module(i, field)]
                    bias = getattr(layer, f"{field}_bias", None)
                    yield norm(config, x.reshape(-1, *weight.shape), weight, bias), out

    def attention(self) -> Pairs:
        for i, config, layer in self.first_layers():
            if layer.config.own_keys and not layer.config.convolution:
                x, out = self.calls[self.child(i, "o")]
                layer = layer.replace(attention_norm=None)  # which has been applied to x
                seen = seen_in(config, self.view, layer.window)
                q = queries(config, layer, x, self.view)
                k, v = keys_values(config, layer, x, self.view)
                softcap = layer.config.attention_softcap
                attended = attend(q, k, v, seen, softcap=softcap, sinks=layer.sinks)
                yield mix_attended(config, layer, x, attended), out

    def recurrence(self) -> Pairs:
        for i, config, layer in self.first_layers():
            if layer.config.convolution:
                x, out = self.calls[self.child(i, "o")]
                layer = layer.replace(attention_norm=None)
                read, _ = recur(config, layer, x, self.view.branch)
                yield mix_attended(config, layer, x, read), out

    def mixtures(self) -> Pairs:
        for i, config, layer in self.first_layers():
            if layer.router_norm is not None:  # experts beside the MLP
                x, out = self.calls[self.child(i, "expert_up")]
                routed = self.calls[self.child(i, "router")].x.reshape(1, -1, config.width)
                routed = rms_norm(routed, layer.router_norm, config.norm_eps) * config.width**-0.5
                yield mixture(layer, x.reshape(1, -1, config.width), routed), out
            elif layer.router is not None:
                name = self.child(i, "router")
                x, out = self.calls[name]
                # a shared expert is a part of their mixture, or beside it
                inside = layer.up is not None and self.module(i, "down").startswith(name)
                run = feed_forward if inside else mixture
                yield run(layer, x.reshape(1, -1, config.width)), out

    def mlps(self) -> Pairs:
        for i, config, layer in self.first_layers():
            if layer.up is not None:
                x, out = self.calls[self.module(i, "down").rpartition(".")[0]]
                yield mlp(layer, x.reshape(1, -1, config.width)), out

    def blocks(self) -> Pairs:
        for i, config, layer in self.first_layers():
            if not layer.config.own_keys:  # it needs those of another layer
                continue
            x, out = self.calls[f"model.layers.{i}"]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, config.state_width - config.width)))
            view = self.view
            if view.inputs is not None:
                view = view.replace(inputs=view.inputs[i])
            yield residual(config, block(config, layer, x, view)), out

    def whole(self) -> Pairs:
        for path in oracle.PATHS.values():
            theirs = oracle.logits(self.theirs, self.ids, path)
            yield cola_jax.run_path(self.model, self.ids, pad_path(path, POSITIONS)), theirs

    def paths_of_steps(self) -> list[LayerPath]:
        """Return those whose layers find the keys that they share."""
        paths = [parse_path(text, oracle.LAYERS) for text in oracle.STEPS]
        first, *others = paths
        config = self.model.config
        return [first, *(path for path in others if not config.missing_keys(path))]

    def steps(self) -> Pairs:
        for path in self.paths_of_steps():
            theirs = oracle.logits(self.theirs, self.ids, path)
            yield cola_jax.run_path(self.model, self.ids, pad_path(path, POSITIONS)), theirs

    def tiles(self) -> Pairs:
        """Run them beside paths of whole layers in `run_paths`, and decode them."""
        plain = [oracle.PATHS["identity"], oracle.PATHS["repeat"]]
        paths = [*self.paths_of_steps(), *plain]
        # read at each token but the last, and asked about the next one
        readings = cola_jax.run_paths(self.model, self.ids, paths)
        decoded = cola_jax.generate(self.model, self.ids, paths, max_new_tokens=DECODED)
        for c, path in enumerate(paths):
            logits = torch.from_numpy(oracle.logits(self.theirs, self.ids, path))[:, :-1]
            logprobs = logits.log_softmax(-1).numpy()
            next_tokens = self.ids[:, 1:, None]
            yield readings.logprob[:, c], np.take_along_axis(logprobs, next_tokens, 2)[:, :, 0]
            yield readings.token[:, c], logprobs.argmax(-1)
            yield decoded.tokens[:, c], oracle.decode(self.theirs, self.ids, path, DECODED)

    def batched(self) -> Pairs:
        """Run rows of several lengths, whose logits are the first ones of the whole rows."""
        rows = [row[:length] for row, length in zip(self.ids, LENGTHS, strict=True)]
        prompts = Prompts.stack([row_of(row) for row in rows])
        path = pad_path(oracle.PATHS["identity"], POSITIONS)
        logits = cola_jax.run_path(self.model, prompts, path)
        for length, ours, theirs in zip(LENGTHS, logits, self.calls[""].out, strict=True):
            yield ours[:length], theirs[:length]


def row_of(ids: np.ndarray) -> Prompts:
    numbers = np.arange(len(ids), dtype=np.int32)
    return Prompts(ids=ids, positions=numbers, branch=np.zeros_like(numbers))


PARTS = {
    "norm": Recorded.norms,
    "attention": Recorded.attention,
    "recurrence": Recorded.recurrence,
    "mixture": Recorded.mixtures,
    "mlp": Recorded.mlps,
    "layer": Recorded.blocks,
    "model": Recorded.whole,
    "steps": Recorded.steps,
    "tiles": Recorded.tiles,
    "batched": Recorded.batched,
}


@pytest.fixture(scope="module")
def recorded(pair: Any) -> Any:
    """Return a function that returns the `Recorded` of a variant, of which one is kept."""
    return functools.lru_cache(1)(lambda variant: Recorded(pair(variant)))


@pytest.mark.parametrize(("variant", "part"), list(cases()))
def test_part(recorded: Any, variant: str, part: str) -> None:
    compared = 0
    for ours, theirs in PARTS[part](recorded(variant)):
        assert oracle.relative_error(ours.reshape(theirs.shape), theirs) < oracle.TOLERANCE
        compared += 1
    assert compared, f"{variant} has no {part}"


def failing(recorded: Recorded) -> set[str]:
    """Return the parts of one layer that differ from transformers."""
    return {
        part
        for part in ("norm", "attention", "mixture", "mlp", "layer")
        for ours, theirs in PARTS[part](recorded)
        if not oracle.relative_error(ours.reshape(theirs.shape), theirs) < oracle.TOLERANCE
    }


@pytest.mark.parametrize(
    ("variant", "change", "part"),
    [
        ("gemma3", {"norm_offset": 0.0}, "norm"),
        ("gemma3", {"query_scale": 1.0}, "attention"),
        ("gemma3", {"activation": "silu"}, "mlp"),
        ("qwen3-moe", {"experts_per_token": 2}, "mixture"),
    ],
)
def test_a_mistake_fails_in_its_part(pair: Any, variant: str, change: Any, part: str) -> None:
    recorded = Recorded(pair(variant))
    config = ModelConfig.from_fields(recorded.model.config.fields() | change)
    recorded.model = recorded.model.replace(config=config)
    # keys and queries have norms too
    expected = {part, "layer", "attention"} if part == "norm" else {part, "layer"}
    assert failing(recorded) == expected
