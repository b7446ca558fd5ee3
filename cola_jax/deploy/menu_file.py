"""A menu on disk, as `cola menu` writes it: its paths, and the rule that chooses between them."""

import dataclasses
import io
import zipfile
from typing import Any

import numpy as np
from etils import epath

from cola_jax.deploy.menu import Path
from cola_jax.deploy.prompt_state import prompt_states
from cola_jax.deploy.rules import CONFIDENCE, Signals, most_confident, vote
from cola_jax.deploy.selector import Selector
from cola_jax.json_text import parse_object
from cola_jax.params import Model
from cola_jax.path import parse_path
from cola_jax.prompts import Prompts

MENU, SELECTOR = "menu.json", "selector.npz"
RULES = ("vote", *CONFIDENCE, "selector")


@dataclasses.dataclass(frozen=True, eq=False)
class MenuFile:
    """Paths of a menu, the first that of the pretrained model, and its rule."""

    paths: tuple[Path, ...]
    rule: str
    sign: int
    selector: Selector | None  # of the rule `selector` alone
    state_layer: int

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
      ValueError: for a file that is missing or no menu, and a menu of another checkpoint.
    """
    file = epath.Path(directory) / MENU
    if not file.exists():
        raise ValueError(f"{directory} has no {MENU}: make it with `cola menu`.")
    try:
        content = parse_object(file.read_bytes(), str(file))
    except ValueError as error:
        raise ValueError(f"{error} Make it again with `cola menu`.") from None
    try:
        paths, rule = content["paths"], content["rule"]
        sign, depth, made_for = content["sign"], content["state_layer"], content["model"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} lacks {error}: make it again with `cola menu`.") from None
    if made_for != model:
        raise ValueError(
            f"{file} is a menu of the checkpoint {made_for}, but this one is {model}: make a menu "
            "for this model."
        )
    if rule not in RULES or sign not in (None, 1, -1) or not is_count(depth, num_layers):
        raise ValueError(
            f"{file} has the rule {rule!r}, the sign {sign!r}, the state layer {depth!r}: a rule "
            f"is one of {', '.join(RULES)}, a sign 1, -1 or null, a state layer 0 to {num_layers}."
        )
    if not isinstance(paths, list) or not all(isinstance(text, str) for text in paths):
        raise ValueError(f"{file}: paths must be a list of texts.")
    parsed = tuple(parse_path(text, num_layers) for text in paths)
    if len(parsed) < 2:
        raise ValueError(f"{file} has {len(parsed)} paths, of which there is nothing to choose.")
    selector = load_selector(file.parent / SELECTOR, len(parsed)) if rule == "selector" else None
    return MenuFile(parsed, rule, 1 if sign is None else sign, selector, depth)


def is_count(value: Any, most: int) -> bool:
    """Whether a value is a whole number from 0 to `most`."""
    return type(value) is int and 0 <= value <= most


def load_selector(file: epath.Path, paths: int) -> Selector:
    """Reads a selector's arrays; ValueError where they are not those of a menu of so many paths."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            selector = Selector(*(arrays[name] for name in Selector._fields))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error}): make the menu again.") from None
    width = selector.mean.shape[0] if selector.mean.ndim == 1 else -1
    shapes = tuple(array.shape for array in selector)
    if shapes != ((width,), (width,), (width, paths), (paths,)):
        raise ValueError(f"{file} has arrays of other shapes than its menu: make the menu again.")
    return selector
