"""A menu on disk, as `cola menu` writes it: its paths, and the rule that chooses between them."""

import dataclasses
from typing import Literal

import numpy as np
from etils import epath
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cola_jax.deploy.array_file import read_arrays
from cola_jax.deploy.prompt_states import prompt_states
from cola_jax.deploy.rules import Selector, Signals, most_confident, vote
from cola_jax.errors import InputError, reading
from cola_jax.files import read_json
from cola_jax.identity import check_belongs, digest
from cola_jax.params import Model
from cola_jax.path import parse_path_of
from cola_jax.prompts import Prompts

MENU, SELECTOR = "menu.json", "selector.npz"
Path = tuple[int, ...]
REPAIR = "make the menu again with `cola menu`"


class Content(BaseModel):
    """What the file of a menu says, besides what it is for people."""

    model_config = ConfigDict(strict=True, frozen=True)

    model: str  # identity of the checkpoint
    paths: list[str] = Field(min_length=2)
    rule: Literal["single", "vote", "logprob", "entropy", "certainty", "selector"]
    sign: Literal[1, -1] | None
    single: int = Field(0, ge=0)  # the path of the rule `single`
    state_layer: int = Field(ge=0)
    selector: str | None = None  # digest of its arrays


CONTENT = TypeAdapter(Content)


@dataclasses.dataclass(frozen=True, eq=False)
class MenuFile:
    """Paths of a menu, the first that of the pretrained model, and its rule.

    A menu of the rule `single` is that path alone.
    """

    paths: tuple[Path, ...]
    rule: str
    sign: int
    selector: Selector | None  # of the rule `selector` alone
    state_layer: int
    digest: str = ""

    def choose(self, told: Signals) -> np.ndarray:
        """Returns the path [n] that the rule chooses by the signals [n, k] of all paths."""
        if self.rule == "vote":
            return vote(told.answer)
        return most_confident(getattr(told, self.rule), self.sign)

    def select(self, model: Model, prompts: Prompts) -> list[Path]:
        """Returns the path of each prompt [B, T] by the selector, before any path has run."""
        assert self.selector is not None
        rows = [
            Prompts(*(np.asarray(x)[b] for x in (prompts.ids, prompts.positions, prompts.branch)))
            for b in range(len(prompts.ids))
        ]
        features = prompt_states(model, rows, self.state_layer)
        return [self.paths[i] for i in self.selector.choose(features)]


def load_menu(directory: str, model: str, num_layers: int) -> MenuFile:
    """Reads the menu in a directory.

    Args:
      model: identity of the checkpoint that is to run it.
      num_layers: its layers, L.

    Raises:
      InputError: for a file that is missing or no menu, a menu of another checkpoint, and a
        selector that is not the one of the menu.
    """
    file = epath.Path(directory) / MENU
    if not file.exists():
        raise InputError(f"{directory} has no {MENU}: make it with `cola menu`.")
    with reading(file, f"{REPAIR}."):
        content = CONTENT.validate_python(read_json(file))
        paths = tuple(parse_path_of(file, text, num_layers) for text in content.paths)
        if content.state_layer > num_layers or content.single >= len(paths):
            raise InputError(
                f"{file}: state_layer is {content.state_layer} of {num_layers}, single is "
                f"{content.single} of {len(paths)} paths."
            )
    check_belongs(str(file), {"model": content.model}, "this model", {"model": model}, REPAIR)
    if content.rule == "single":
        paths = (paths[content.single],)
    selector = None
    if content.rule == "selector":
        place = file.parent / SELECTOR
        selector = load_selector(place, len(paths))
        rests_on = {"selector": content.selector}
        check_belongs(str(file), rests_on, str(place), {"selector": selector.digest}, REPAIR)
    sign = 1 if content.sign is None else content.sign
    menu = digest(content.model_dump(), selector and selector.digest)
    return MenuFile(paths, content.rule, sign, selector, content.state_layer, menu)


def load_selector(file: epath.Path, paths: int) -> Selector:
    """Reads a selector's arrays; InputError where they are not those of a menu of these paths."""
    selector = Selector(*read_arrays(file, Selector._fields, REPAIR))
    width = selector.mean.shape[0] if selector.mean.ndim == 1 else -1
    shapes = tuple(array.shape for array in selector)
    if shapes != ((width,), (width,), (width, paths), (paths,)) or not selector.scale.all():
        raise InputError(f"{file} has other arrays than those of its menu: {REPAIR}.")
    return selector
