"""`apply_path` and `remove_path`: a model of transformers along a path, in place, without copies.

Each position of the path has a module of its own, which `at_position` makes. It holds the index in
which caches keep keys, values and recurrent states, and shares everything else with its layer:

    path 0,1,1     layers[0]         layers[1]         layers[2]
                   layer_idx 0       layer_idx 1       layer_idx 2
                       |                  \\               /
    pretrained     weights of layer 0      weights of layer 1

A missing part of a layer is a module that returns zeros; an MLP alone has no index. A share of an
update is a hook on the module of the position. transformers reads the length of what it has seen
from the first index of a cache, so attentions take the first ones:

    path 0m,0a,1   layers[0]         layers[1]         layers[2]
                   no index          layer_idx 0       layer_idx 1
"""

import copy
import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cola_jax.errors import InputError, nearest, shown
from cola_jax.steps import MLP, Step, layer_of, missing_part, part_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, ModuleList
    from transformers import PreTrainedConfig, PreTrainedModel

    from cola_jax.path import Ids, LayerPath

APPLIED = "_cola_path"  # attribute of a decoder, with what a path has changed
INDEX = "layer_idx"  # of a layer in caches
BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # lists of configs
WEIGHTS = ("_parameters", "_buffers")  # attributes of modules
OWN_LAYERS = "transformers.models."  # where the classes of layers are that are known


@dataclasses.dataclass
class AppliedPath:
    """What a path has changed in a decoder, and how to change it back."""

    layers: "ModuleList"  # of the pretrained model
    training: bool
    values: list[tuple[Any, str, Any]] = dataclasses.field(default_factory=list)  # before
    hooks: list[Any] = dataclasses.field(default_factory=list)

    def set(self, place: Any, name: str, value: Any) -> None:
        """Set an attribute, and keep the value that it had."""
        self.keep(place, name)
        setattr(place, name, value)

    def keep(self, place: Any, name: str) -> None:
        """Keep the value of an attribute."""
        self.values.append((place, name, getattr(place, name)))

    def undo(self, decoder: Any) -> None:
        """Restore the decoder; layers follow where it was put into another mode meanwhile."""
        if decoder.training != self.training:
            reached = set(decoder.modules())
            for module in self.layers.modules():
                if module not in reached:
                    module.training = decoder.training
        for hook in self.hooks:
            hook.remove()
        for place, name, value in reversed(self.values):
            setattr(place, name, value)
        delattr(decoder, APPLIED)


@dataclasses.dataclass(frozen=True)
class ChooseInputs:
    """A forward hook that takes the inputs of all layers, side by side, and returns the path's."""

    path: "LayerPath"
    num_layers: int

    def __call__(self, module: "Module", arguments: Any, inputs: "Tensor") -> "Tensor":
        layers = [layer_of(step) for step in self.path]
        return inputs.unflatten(-1, (self.num_layers, -1))[..., layers, :].flatten(-2)


@dataclasses.dataclass(frozen=True)
class AddShare:
    """A forward hook of a layer f, which returns h + share * (f(h) - h)."""

    share: float

    def __call__(self, module: "Module", arguments: tuple[Any, ...], updated: "Tensor") -> "Tensor":
        h = arguments[0].to(updated.device)  # layers of a model may be on several devices
        return h + self.share * (updated - h)


def apply_path(hf_model: "PreTrainedModel", path: "str | Ids") -> None:
    """Run a model of transformers along a path of its layers from now on, in place.

    A path may have steps that are an attention or an MLP alone, or a share of a layer's update.
    No weight is copied: a layer that runs several times is the same parameters several times, and
    their gradients add up. Each position of the path keeps keys, values and recurrent states of its
    own, so `generate` is right with any cache that is made from the model's config. What a config
    lists by layer (kinds, windows) and the number of layers follow the path, in every config of the
    text decoder; the parts of a multimodal model for pictures stay as they are.

    Ids are those of the pretrained layers, also where another path is applied, which the new one
    replaces. Hooks on the modules of a layer are copied to its positions. Layers and parts that the
    path skips are no part of the model until `remove_path`: `to` and `half` do not reach them, and
    `save_pretrained`, which refuses parameters that have two names, would not write them: remove
    the path first. `cola export` writes a path as a checkpoint.

    Args:
      hf_model: of one of the families that `cola convert` reads, also multimodal or without a head.
      path: a text such as `0-5,7,7*0.5,8a,9-29`, what else names a path on the command line, or ids
        of steps.

    Raises InputError, before anything is changed, for another model, a path that does not fit, and
    layers that something has wrapped or compiled.
    """
    decoder = decoder_of(hf_model, "apply_path")
    applied = vars(decoder).get(APPLIED)
    layers = decoder.layers if applied is None else applied.layers
    layer_ids = read_layers(path, len(layers))
    for layer in layers:
        check_layer(layer)
    check_shared_keys(layers, layer_ids)
    if applied is not None:
        applied.undo(decoder)
    install_recorders(decoder)
    change(hf_model, decoder, layer_ids)


def remove_path(hf_model: "PreTrainedModel") -> None:
    """Undo `apply_path`: the model has its own layers and config again, the same objects.

    Raises InputError where no path is applied.
    """
    decoder = decoder_of(hf_model, "remove_path")
    applied = vars(decoder).get(APPLIED)
    if applied is None:
        raise InputError("remove_path: no path is applied to this model.")
    applied.undo(decoder)


def decoder_of(hf_model: "PreTrainedModel", function: str) -> Any:
    """Find the text decoder of a model; InputError for anything but one of a known family."""
    from torch.nn import ModuleList
    from transformers import PreTrainedModel

    from cola_jax.formats.families import FAMILIES

    if not isinstance(hf_model, PreTrainedModel):
        raise InputError(
            f"{function} takes a model of transformers, not {shown(type(hf_model).__name__)}: give "
            "the model inside, such as get_base_model() of PEFT or _orig_mod of torch.compile."
        )
    texts = {name for name, family in FAMILIES.items() if not family.texts}
    decoders = [
        module
        for module in hf_model.modules()
        if isinstance(module, PreTrainedModel)
        and module.config.model_type in texts
        and isinstance(getattr(module, "layers", None), ModuleList)
    ]
    if len(decoders) != 1:
        kind = hf_model.config.get_text_config(decoder=True).model_type
        near = nearest(str(kind), texts)
        raise InputError(
            f"{function} found {len(decoders) or 'no'} text decoders in this model of model_type "
            f"{shown(kind)}{f' (nearest: {near})' if near else ''}. It takes models with one, of a "
            f"family of cola convert: {', '.join(sorted(texts))}."
        )
    return decoders[0]


def read_layers(path: "str | Ids", num_layers: int) -> "LayerPath":
    """Read a path; InputError where it does not fit the model."""
    from cola_jax.deploy.path_file import read_path
    from cola_jax.execute.inputs import path_ids
    from cola_jax.path import unpad_path

    if isinstance(path, str):
        return read_path(path, num_layers)
    if not isinstance(path, Iterable):
        raise InputError(
            f"a path is a text such as 0-5,7,7,8-29 or a list of ids, not {shown(path)}."
        )
    return unpad_path(path_ids(path, num_layers))


def check_layer(layer: "Module") -> None:
    """Raise InputError for a layer of which `at_position` would make none that is right."""
    kind = type(layer)
    if not kind.__module__.startswith(OWN_LAYERS):
        raise InputError(
            f"the layers of this model are {shown(f'{kind.__module__}.{kind.__name__}')}, and not "
            "of transformers: apply the path before layers are wrapped or sharded, and without "
            "trust_remote_code."
        )
    for module in modules_with_index(layer):
        if vars(module).get("_compiled_call_impl") is not None:
            raise InputError("a layer of this model is compiled: compile after apply_path.")
        forward = vars(module).get("forward")
        if forward is not None and bound_to(forward) is not module:
            raise InputError(
                f"forward of {shown(type(module).__name__)} is replaced by a function that would "
                "run with the cache of another layer: apply the path first."
            )


def check_shared_keys(layers: "Sequence[Any]", path: "LayerPath") -> None:
    """Raise InputError for a path with a layer before the one whose keys and values it shares."""
    from cola_jax.config import check_keys

    sources: list[int | None] = []
    last: dict[str, int] = {}  # layer with keys of its own, by type
    for i, layer in enumerate(layers):
        if shares_keys(layer):
            sources.append(last[layer.self_attn.layer_type])
            continue
        sources.append(None)
        if has_shared_keys(layer):
            last[layer.self_attn.layer_type] = i
    if last:
        check_keys(sources, path)


def install_recorders(decoder: Any) -> None:
    """Install the hooks of `output_hidden_states` and the like.

    transformers does so once, when a decoder is first asked for them. That must not be while it
    runs a path, or its own modules would have none after `remove_path`.
    """
    from transformers.utils.output_capturing import maybe_install_capturing_hooks

    maybe_install_capturing_hooks(decoder)


def change(hf_model: "PreTrainedModel", decoder: Any, path: "LayerPath") -> None:
    """Put the layers of a path into a decoder, and all that is looked up by position in order."""
    applied = AppliedPath(decoder.layers, decoder.training)
    setattr(decoder, APPLIED, applied)
    try:
        described = described_layers(path)
        indices = cache_indices(path, described, kinds_of(decoder))
        sharing = put_layers(decoder, path, indices, applied)
        for config in configs_of(hf_model, decoder):
            follow(config, described, sharing, applied)
    except BaseException:
        applied.undo(decoder)
        raise


def described_layers(path: "LayerPath") -> list[int]:
    """Return the layer that configs describe at each position.

    Caches have an entry for each, also where an MLP alone needs none: it is described as the first
    attention of the path, so that no cache is of a kind that nothing fills.
    """
    attending = [layer_of(step) for step in path if part_of(step) != MLP]
    layers = [layer_of(step) for step in path]
    first = attending[0] if attending else layers[0]
    return [first if part_of(step) == MLP else layer_of(step) for step in path]


def kinds_of(decoder: Any) -> list[tuple[bool, str]]:
    """Return for each layer whether it is recurrent, and which kind of cache it has."""
    config = decoder.config
    types = getattr(config, "layer_types", None) or [""] * len(decoder.layers)
    overrides = config.to_dict().get("per_layer_config") or {}
    return [
        (getattr(layer, "self_attn", None) is None, f"{types[i]} {overrides.get(str(i))}")
        for i, layer in enumerate(decoder.layers)
    ]


def cache_indices(
    path: "LayerPath", described: "Sequence[int]", kinds: "Sequence[tuple[bool, str]]"
) -> list[int]:
    """Return the index in caches of each position; that of an MLP alone has no meaning.

    The indices of a kind of cache are those of the positions that configs describe as this kind.
    transformers takes lengths from the first index of a kind of attention, and from the last one
    of recurrent layers whether there is a state, so these may not be ones that nothing fills.
    """
    indices = list(range(len(path)))
    for kind in {kinds[layer] for layer in described}:
        places = [p for p, layer in enumerate(described) if kinds[layer] == kind]
        users = [p for p in places if part_of(path[p]) != MLP]
        is_recurrent, _ = kind
        taken = places[len(places) - len(users) :] if is_recurrent else places[: len(users)]
        for user, place in zip(users, taken, strict=True):
            indices[user] = place
    return indices


def put_layers(
    decoder: Any, path: "LayerPath", indices: "Sequence[int]", applied: AppliedPath
) -> int:
    """Put the layers of a path into a decoder; return how many at its end share keys."""
    layers = applied.layers
    positions = copy.copy(layers)
    modules = {
        str(i): step_module(layers[layer_of(step)], Step.of(step), index)
        for i, (step, index) in enumerate(zip(path, indices, strict=True))
    }
    vars(positions)["_modules"] = modules
    applied.set(decoder, "layers", positions)
    sharing = 0
    for position, step in enumerate(reversed(path), 1):
        if part_of(step) == MLP:  # needs no keys
            continue
        if not shares_keys(layers[layer_of(step)]):
            break
        sharing = position
    if hasattr(decoder, "first_kv_shared_layer_idx"):  # after it, tokens that are not read end
        applied.set(decoder, "first_kv_shared_layer_idx", len(path) - sharing)
    if getattr(decoder, "hidden_size_per_layer_input", None):
        for module in (decoder.embed_tokens_per_layer, decoder.per_layer_model_projection):
            hook = module.register_forward_hook(ChooseInputs(path, len(layers)))
            applied.hooks.append(hook)
    return sharing


def configs_of(hf_model: "PreTrainedModel", decoder: Any) -> "Iterator[PreTrainedConfig]":
    """Yield the configs of the text decoder: parts of a model may have copies of their own."""
    from transformers import PreTrainedConfig

    found = {}
    for module in hf_model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            config = config.get_text_config(decoder=True)
            if type(config) is type(decoder.config):
                found[id(config)] = config
    yield from found.values()


def follow(config: Any, path: "Sequence[int]", sharing: int, applied: AppliedPath) -> None:
    """Give a config the layers of a path, of which the last ones share keys."""
    overrides = config.to_dict().get("per_layer_config")  # by layer, in text
    applied.set(config, "num_hidden_layers", len(path))
    for name in BY_LAYER:
        values = getattr(config, name, None)
        if values is not None:
            applied.set(config, name, [values[layer] for layer in path])
    if overrides is not None:
        applied.keep(config, "_heterogeneity_spec")
        by_layer = {int(layer): values for layer, values in overrides.items()}
        config.per_layer_config = {
            position: by_layer[layer] for position, layer in enumerate(path) if layer in by_layer
        }
    if hasattr(config, "num_kv_shared_layers"):
        applied.set(config, "num_kv_shared_layers", sharing)


def step_module(layer: "Module", step: Step, index: int) -> "Module":
    """Make the module that runs a step of a layer, with an index in caches."""
    from cola_jax.deploy.serve.parts import modules_without

    module = at_position(layer, index)
    if (missing := missing_part(step.id)) is not None:
        vars(module)["_modules"] = modules_without(module, {missing}, is_transformers=True)
    if step.share != 1:
        # before other hooks, which see the state after the step
        module.register_forward_hook(AddShare(step.share), prepend=True)
    return module


def at_position(layer: "Module", position: int) -> "Module":
    """Make the module that runs a layer at a position of a path.

    Modules with an index in caches are copied, and those above them. Their weights, and all other
    modules, are the layer's own: what takes the place of a projection later, such as a LoRA, does
    so wherever the layer runs.
    """
    twin = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict | set) and name not in WEIGHTS:  # hooks
            vars(twin)[name] = copy.copy(value)
        elif bound_to(value) is layer:
            vars(twin)[name] = rebound(value, twin)
    if INDEX in vars(layer):
        setattr(twin, INDEX, position)
    indexed = {
        name: at_position(child, position)
        for name, child in layer.named_children()
        if next(modules_with_index(child), None) is not None
    }
    if indexed:
        vars(twin)["_modules"] |= indexed
    else:
        vars(twin)["_modules"] = layer._modules
    return twin


def modules_with_index(module: "Module") -> "Iterator[Module]":
    """Yield the parts of a module that have an index in caches."""
    return (part for part in module.modules() if INDEX in vars(part))


def bound_to(function: Any) -> Any:
    """Return what a function is bound to, as accelerate and kernels replace `forward`, or None."""
    if isinstance(function, types.MethodType):
        return function.__self__
    if isinstance(function, functools.partial) and function.args:
        return function.args[0]
    return None


def rebound(function: Any, module: "Module") -> Any:
    """Return a bound function for another module."""
    if isinstance(function, types.MethodType):
        return types.MethodType(function.__func__, module)
    return functools.partial(function.func, module, *function.args[1:], **function.keywords)


def has_shared_keys(layer: Any) -> bool:
    """Return whether layers of the model may share keys and values, as in Gemma 4."""
    return hasattr(getattr(layer, "self_attn", None), "is_kv_shared_layer")


def shares_keys(layer: Any) -> bool:
    """Return whether a layer attends to the keys and values of another one."""
    return has_shared_keys(layer) and layer.self_attn.is_kv_shared_layer
