"""Put the layers of a model in the order of a path; weights are shared between repeats."""

# pyright: reportMissingImports=false

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.models.utils import PPMissingLayer

from cola_jax.deploy.serve.checks import PathError
from cola_jax.deploy.serve.copies import copy_module, is_method_of, shallow_copy
from cola_jax.deploy.serve.parts import part_of_name
from cola_jax.deploy.serve.steps import run_step, without_parts
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from vllm.config import CompilationConfig

LAYER = re.compile(r"^((?:.*?\.)?layers\.)(\d+)(\..*)$")
OTHER_TOWERS = re.compile(r"vision|visual|audio|image")  # their layers have numbers as well


class BaseLayers(NamedTuple):
    """The layers of a base model, without what no position of a path runs, and their place."""

    owner: str  # name of the module that has their list
    name: str  # of the list there
    layers: list[nn.Module]


def put_in_order(
    model: nn.Module,
    num_layers: int,
    path: Sequence[Step],
    compilation: "CompilationConfig",
    *,
    is_transformers: bool = False,
) -> BaseLayers:
    """Replace the layers of a model by those of a path, and register their attention by position.

    The first run of a layer's attention is the layer's own. Every further one is a copy of the
    modules that hold an attention (or a recurrent mixer), which has keys and values of its own; all
    other modules and all parameters are the same objects, so nothing is allocated. An MLP alone has
    no keys and values. Layers and parts that no position runs are dropped, before weights load.

    `is_transformers` says whether the layers are those of transformers. Returns what to load.
    """
    owner, name = find_layers(model, num_layers)
    layers = list(owner.get_submodule(name).children())
    wholes = [run_of(layers, path, position) for position in range(len(path))]
    before = dict(compilation.static_forward_context)
    of_layers = {each for layer in layers for each in layer.modules()}
    after = {key: each for key, each in before.items() if each not in of_layers}
    names = {each: key for key, each in before.items() if each in of_layers}
    experts: list[str] = []  # in the order of their calls
    for position, (step, run) in enumerate(zip(path, wholes, strict=True)):
        for source, module in zip(layers[step.layer].modules(), run.modules(), strict=True):
            old = names.get(source)
            if old is None:
                continue
            if isinstance(module, AttentionLayerBase):
                if step.part == MLP:
                    continue
                new = LAYER.sub(rf"\g<1>{position}\g<3>", old)
                after[new] = module
                replace_values(module, {old: new})
            elif step.part != ATTENTION:  # experts, which all runs share
                after[old] = module
                experts.append(old)
    steps = zip(wholes, path, strict=True)
    runs = [run_step(run, step, is_transformers=is_transformers) for run, step in steps]
    setattr(owner, name, nn.ModuleList(runs))
    if "end_layer" in vars(owner):
        vars(owner)["end_layer"] = len(path)
    compilation.static_forward_context.clear()
    compilation.static_forward_context.update(after)
    compilation.static_all_moe_layers[:] = experts
    owners = (key for key, module in model.named_modules() if module is owner)
    return BaseLayers(
        next(owners), name, [loaded(layer, path, i) for i, layer in enumerate(layers)]
    )


def loaded(layer: nn.Module, path: Sequence[Step], number: int) -> nn.Module:
    """Return a layer of the base model without the parts that no position runs."""
    parts = {step.part for step in path if step.layer == number}
    if not parts:
        return PPMissingLayer()
    if len(parts) > 1 or WHOLE in parts:
        return layer
    return without_parts(layer, {ATTENTION, MLP} - parts, is_transformers=False)


def put_kinds_in_order(config: "PreTrainedConfig", path: Sequence[Step]) -> None:
    """Change the config that a model of transformers reads by position while it runs."""
    config.num_hidden_layers = len(path)
    types = vars(config).get("layer_types")
    if types is not None:
        config.layer_types = [types[step.layer] for step in path]


def find_layers(model: nn.Module, num_layers: int) -> tuple[nn.Module, str]:
    """Return the module that holds the list of decoder layers, and the name of that list there.

    Raises PathError where there is no such list, or where layers read the keys and values of
    others.
    """
    found = [
        (owner, name)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList)
        and len(child) == num_layers
        and all(map(holds_attention, child))
    ]
    if len(found) != 1:
        raise PathError(
            f"vLLM's {type(model).__name__} has {len(found)} lists of {num_layers} layers with "
            "attention where one is expected: serve an export of the path with --format hf."
        )
    ((owner, name),) = found
    for module in owner.get_submodule(name).modules():
        if vars(module).get("kv_sharing_target_layer_name") is not None:
            raise PathError(
                "layers of this model attend to the keys and values of others, at fixed places: "
                "its layers cannot be put in another order."
            )
    return owner, name


def holds_attention(module: nn.Module) -> bool:
    """Whether a module has keys and values, or a recurrent state, itself or inside."""
    return any(isinstance(each, AttentionLayerBase) for each in module.modules())


def run_of(layers: Sequence[nn.Module], path: Sequence[Step], position: int) -> nn.Module:
    """Return the module that runs the whole layer of a position of a path."""
    step = path[position]
    earlier = {step.layer for step in path[:position] if step.part != MLP}
    layer = layers[step.layer]
    return copy_attention(layer) if step.part != MLP and step.layer in earlier else layer


def copy_attention(module: nn.Module) -> nn.Module:
    """Copy the modules that hold an attention; what is inside and holds none is shared.

    Raises PathError for one that was wrapped, whose copy would run the original.
    """
    if not holds_attention(module):
        return module
    forward = vars(module).get("forward")
    if forward is not None and not is_method_of(forward, module):
        raise PathError(
            f"{type(module).__name__} has a forward of its own, as offloaded layers have, and "
            "cannot run twice: serve without offloading (--cpu-offload-gb)."
        )
    copied = copy_module(module)
    children = {child: copy_attention(child) for child in module.children()}
    if isinstance(module, AttentionLayerBase) and "impl" in vars(module):
        copied.impl = shallow_copy(module.impl)
    copied._modules = {name: child and children[child] for name, child in module._modules.items()}
    replace_values(copied, children)
    return copied


def replace_values(module: nn.Module, values: Mapping[Any, Any]) -> None:
    """Replace attributes of a module that are one of some texts or modules."""
    for name, value in vars(module).items():
        if isinstance(value, str | nn.Module) and value in values:
            vars(module)[name] = values[value]


@contextlib.contextmanager
def named_by_layer(model: nn.Module, base: BaseLayers) -> Iterator[None]:
    """Name the layers that run as the base model does, so that its own loader finds them."""
    owner = model.get_submodule(base.owner)
    runs = owner.get_submodule(base.name)
    setattr(owner, base.name, nn.ModuleList(base.layers))
    try:
        yield
    finally:
        setattr(owner, base.name, runs)


def of_path(
    weights: Iterable[tuple[str, torch.Tensor]], num_layers: int, path: Sequence[Step]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a checkpoint without those of layers and parts that no position runs.

    Those of layers after the last, which predict further tokens, stay.
    """
    for name, weight in weights:
        match = match_layer(name)
        is_other = match is None or int(match[2]) >= num_layers
        if is_other or first_position(name, path) is not None:
            yield name, weight


def first_position(name: str, path: Sequence[Step]) -> int | None:
    """Return the first position that has a tensor of a layer; None where none has it."""
    match = match_layer(name)
    assert match is not None
    part = part_of_name(match[3].split(".")[1])
    for position, step in enumerate(path):
        if step.layer == int(match[2]) and (part is None or step.part in (WHOLE, part)):
            return position
    return None


def named_by_position(name: str, path: Sequence[Step]) -> str:
    """Return the name of a parameter at the first position that has it."""
    match = match_layer(name)
    position = None if match is None else first_position(name, path)
    return name if match is None or position is None else f"{match[1]}{position}{match[3]}"


def match_layer(name: str) -> re.Match[str] | None:
    """Match the name of a tensor of a decoder layer."""
    return None if OTHER_TOWERS.search(name) else LAYER.match(name)
