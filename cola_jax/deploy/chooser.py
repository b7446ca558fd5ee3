"""What chooses the path of each prompt for the harness's model: one path for all, or a router."""

from collections.abc import Callable, Sequence

from cola_jax.deploy.model_args import ModelArguments
from cola_jax.params import Model
from cola_jax.path import identity, parse_path, validate
from cola_jax.prompts import Prompts

Path = tuple[int, ...]
Chooser = Callable[[Prompts], Sequence[Sequence[int]]]  # prompts [B, T] -> B paths


def path_chooser(given: ModelArguments, path: Path, model: Model) -> Chooser:
    """Returns what chooses the path of each prompt: a router, or the one path for all."""
    if given.router is not None:
        from cola_jax.deploy.router import load_router

        router = load_router(given.router, model)
        return lambda prompts: [best for best, *_ in router.paths(prompts, beams=1)]
    return lambda prompts: [path] * len(prompts.ids)


def read_path(given: ModelArguments, num_layers: int) -> Path:
    """Reads the path that was given, that of the pretrained model where none was."""
    if given.path is None:
        return identity(num_layers)
    if isinstance(given.path, str):
        return parse_path(given.path.strip("[]"), num_layers)
    return validate(given.path, num_layers, max_length=2 * num_layers)
