"""Put the layers of a model in the order of a path; weights are shared between repeats."""

# pyright: reportMissingImports=false

import contextlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from torch import nn
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.models.utils import PPMissingLayer

from cola_jax.deploy.serve.checks import PathError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from vllm.config import CompilationConfig

LAYER = re.compile(r"^((?:.*?\.)?layers\.)(\d+)(\..*)$")
OTHER_TOWERS = re.compile(r"vision|visual|audio|image")  # their layers have numbers as well
Held = TypeVar("Held")


def put_in_order(
    model: nn.Module, num_layers: int, path: Sequence[int], compilation: "CompilationConfig"
) -> None:
    """Replace the layers of a model by those of a path, and register their attention by position.

    The first run of a layer is the layer itself. Every further run is a copy of the modules that
    hold an attention (or a recurrent mixer), which has keys and values of its own; all other
    modules and all parameters are the same objects, so nothing is allocated. Layers that no
    position runs are dropped, before weights load.
    """
    owner, name = find_layers(model, num_layers)
    layers = list(owner.get_submodule(name).children())
    runs = [run_of(layers, path, position) for position in range(len(path))]
    before = dict(compilation.static_forward_context)
    of_layers = {each for layer in layers for each in layer.modules()}
    after = {key: each for key, each in before.items() if each not in of_layers}
    names = {each: key for key, each in before.items() if each in of_layers}
    experts: list[str] = []  # in the order of their calls
    for position, run in enumerate(runs):
        for source, module in zip(layers[path[position]].modules(), run.modules(), strict=True):
            old = names.get(source)
            if old is None:
                continue
            if isinstance(module, AttentionLayerBase):
                new = LAYER.sub(rf"\g<1>{position}\g<3>", old)
                after[new] = module
                replace_values(module, {old: new})
            else:  # experts, which all runs share
                after[old] = module
                experts.append(old)
    setattr(owner, name, nn.ModuleList(runs))
    if "end_layer" in vars(owner):
        vars(owner)["end_layer"] = len(path)
    compilation.static_forward_context.clear()
    compilation.static_forward_context.update(after)
    compilation.static_all_moe_layers[:] = experts


def put_kinds_in_order(config: "PreTrainedConfig", path: Sequence[int]) -> None:
    """Change the config that a model of transformers reads by position while it runs."""
    config.num_hidden_layers = len(path)
    types = vars(config).get("layer_types")
    if types is not None:
        config.layer_types = [types[layer] for layer in path]


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


def run_of(layers: Sequence[nn.Module], path: Sequence[int], position: int) -> nn.Module:
    """Return the module that runs at a position of a path."""
    layer = layers[path[position]]
    is_first = path[position] not in path[:position]
    return layer if is_first else copy_attention(layer)


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
    copied = shallow_copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        vars(copied)[table] = dict(vars(module)[table])
    children = {child: copy_attention(child) for child in module.children()}
    if isinstance(module, AttentionLayerBase) and "impl" in vars(module):
        copied.impl = shallow_copy(module.impl)
    copied._modules = {name: child and children[child] for name, child in module._modules.items()}
    replace_values(copied, children)
    return copied


def shallow_copy(original: Held) -> Held:
    """Copy an object with the same values; methods that it keeps are those of the copy."""
    copied = object.__new__(type(original))
    vars(copied).update(vars(original))
    for name, value in vars(original).items():
        if is_method_of(value, original):
            vars(copied)[name] = types.MethodType(value.__func__, copied)
    return copied


def is_method_of(value: object, owner: object) -> TypeGuard[types.MethodType]:
    """Whether a value is a method that is bound to an object."""
    return isinstance(value, types.MethodType) and value.__self__ is owner


def replace_values(module: nn.Module, values: Mapping[Any, Any]) -> None:
    """Replace attributes of a module that are one of some texts or modules."""
    for name, value in vars(module).items():
        if isinstance(value, str | nn.Module) and value in values:
            vars(module)[name] = values[value]


@contextlib.contextmanager
def named_by_layer(model: nn.Module, num_layers: int, path: Sequence[int]) -> Iterator[None]:
    """Name the layers that run as the base model does, so that its own loader finds them."""
    owner, name = find_layers(model, len(path))
    runs = owner.get_submodule(name)
    each = list(runs.children())
    named = [each[path.index(i)] if i in path else PPMissingLayer() for i in range(num_layers)]
    setattr(owner, name, nn.ModuleList(named))
    try:
        yield
    finally:
        setattr(owner, name, runs)


def of_path(
    weights: Iterable[tuple[str, torch.Tensor]], num_layers: int, path: Sequence[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a checkpoint without those of layers that no position runs."""
    skipped = set(range(num_layers)).difference(path)
    for name, weight in weights:
        match = match_layer(name)
        if match is None or int(match[2]) not in skipped:
            yield name, weight


def named_by_position(name: str, path: Sequence[int]) -> str:
    """Return the name of a parameter at the first position that runs its layer."""
    match = match_layer(name)
    return name if match is None else f"{match[1]}{path.index(int(match[2]))}{match[3]}"


def match_layer(name: str) -> re.Match[str] | None:
    """Match the name of a tensor of a decoder layer."""
    return None if OTHER_TOWERS.search(name) else LAYER.match(name)
