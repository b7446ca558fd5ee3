"""`PathFile`: a path, with the model it is of, what chose and measured it, and how to run it.

Wherever a path is given, a file such as `path.json` or `static.json` of `cola static`, a folder
with a `path.json`, or a repository of the Hub with one names it.
"""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from etils import epath
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
)

from cola_jax.deploy.effect import ReportedEffect
from cola_jax.errors import InputError, printed, reading, shorten, shown
from cola_jax.files import (
    exists,
    inside,
    parse_object,
    read_bytes,
    readable_json,
    write_whole,
)
from cola_jax.formats.hub import download_file
from cola_jax.formats.identity import HUB_ID, Identity
from cola_jax.path import LayerPath, format_path, is_whole_path, parse_path
from cola_jax.progress import log
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.storage import EXTRAS, AnyPath, is_url, path_of

PATH_FILE = "path.json"
PATH_TEXT = re.compile(r"\s*(?:[0-9(][0-9\s,()xam*.-]*)?")  # never read as a name
FORMS = (
    "a path is a text such as 0-5,7,7,8-29, a JSON file with the field path, a folder with a "
    f"{PATH_FILE}, or the repository OWNER/NAME of the Hub that has one"
)
ACTION = "Give a file as `cola export` writes it, or the path itself as a text."
LONGEST_SENTENCE = 400  # characters of a stranger's sentence that are shown
Count = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Text = Annotated[str, StringConstraints(strict=True, max_length=1000)]
Fact = StrictBool | StrictInt | float | Text | None
Facts = Annotated[dict[Text, Fact], Field(max_length=100)]


class Base(BaseModel):
    """A model on the Hub, through whose layers a path goes."""

    hub_id: str = Field(pattern=rf"^(?:{HUB_ID.pattern})$")
    revision: StrictStr | None = None  # a commit, where it is known


class Keys(BaseModel):
    """The keys of `ChosenOn`, each kind in one text."""

    questions: StrictStr
    wordings: StrictStr
    complete: StrictBool


class PathFile(BaseModel):
    """The fields of a file with one path, of which only the path is always there.

    Other fields, such as those that commands write for themselves, are ignored.
    """

    model_config = ConfigDict(frozen=True)

    path: StrictStr  # to use
    found: StrictStr | None = None  # by a search, where another is recommended
    layers: Count | None = None  # that the path runs
    steps: Count | None = None  # in place of layers, of a path with parts or shares
    num_layers: Count | None = None  # of the model
    model: StrictStr | None = None  # digest
    model_name: StrictStr | None = None
    model_dtype: StrictStr | None = None
    base: Base | None = None
    task: Text | None = None  # for which the path was searched, as are the next two
    wordings: Annotated[list[Facts], Field(max_length=10_000)] = []  # of its questions
    budget: Facts = {}
    chosen_on: Keys | None = None
    effects: list[ReportedEffect] = []  # on tasks; a trial's note is its verdict
    commands: dict[str, StrictStr] = {}  # that run the path, by their engine

    @classmethod
    def read(cls, file: AnyPath, name: str | None = None) -> "PathFile":
        """Read a file; InputError, in which it is called `name`, for others and wrong fields."""
        name = str(file) if name is None else name
        return cls.of(parse_object(read_bytes(file), name), name)

    @classmethod
    def of(cls, content: Mapping[str, Any], name: str) -> "PathFile":
        """Check the content of a file, which may be a stranger's, field by field."""
        path = content.get("path")
        if not isinstance(path, str):
            raise InputError(
                f"{name} has no path: the field path must be a text such as 0-5,7-29, it is "
                f"{shown(path)}. {ACTION}"
            )
        with reading(name, ACTION):
            return cls.model_validate(content)

    @property
    def chosen(self) -> ChosenOn | None:
        """The questions and wordings that chose the path; None where they are not recorded."""
        return None if self.chosen_on is None else ChosenOn.from_json(self.chosen_on.model_dump())

    def layers_of(
        self,
        name: str,
        num_layers: int,
        model: Identity | None = None,
        max_length: int | None = None,
        *,
        found: bool = False,
    ) -> LayerPath:
        """Return the path, or the one that was found, through a model.

        Raises InputError for a file of another model, layers that this one lacks, and a path of
        more than `max_length` steps, by default 2 * num_layers.
        """
        if model is not None:
            model.check(name, self.model, self.model_name, self.model_dtype)
        with reading(name):
            if self.num_layers not in (None, num_layers):
                raise InputError(
                    f"its path is of a model of {self.num_layers} layers, but the model has "
                    f"{num_layers}."
                )
            path = parse_path(self.path, num_layers, max_length)
            for name, stated in (("layers", self.layers), ("steps", self.steps)):
                if stated not in (None, len(path)):
                    raise InputError(
                        f"it states {stated} {name}, but its path runs {len(path)}: it was "
                        "changed after it was written. Get it again, or give the path itself."
                    )
            if found and self.found is not None:
                path = parse_path(self.found, num_layers, max_length)
        return path

    def describe(self) -> str:
        """Say in one line what the file says of its path, escaped."""
        text = f"path {printed(self.path)}"
        if self.task is not None:
            text += f", found for the task {printed(self.task)}"
        effects = [
            f"on {printed(effect.task)}: {printed(effect.sentence, LONGEST_SENTENCE)}"
            for effect in self.effects
        ]
        return f"{text}; {shorten(effects)}" if effects else text

    def write(self, folder: AnyPath) -> None:
        """Write the fields that are known as the `path.json` of a folder."""
        content = self.model_dump(exclude_defaults=True, exclude={"effects"})
        if self.effects:
            content["effects"] = [effect.to_json() for effect in self.effects]
        text = readable_json(content, allow_nan=False)
        write_whole(path_of(folder) / PATH_FILE, f"{text}\n".encode())


def name_of_length(path: LayerPath) -> str:
    """Return what the length of a path counts: layers, or steps where some are not whole ones."""
    return "layers" if is_whole_path(path) else "steps"


def find_path_file(text: str) -> epath.Path | None:
    """Find the file that a text names, downloading the `path.json` of a repository of the Hub.

    A text of digits, punctuation and the letters of steps is always a path, so that its meaning
    does not depend on the files that are there; a folder of such a name is logged. A local file or
    folder comes before a repository OWNER/NAME, also with @REVISION. Returns None where there is no
    such file. Raises InputError where the Hub cannot be asked, or has no such repository.
    """
    if PATH_TEXT.fullmatch(text):
        if text and os.path.exists(os.path.join(text, PATH_FILE)):
            log.warning("%s is read as a path: for the folder of this name, give ./%s", text, text)
        return None
    if is_url(text) and text.partition(":")[0] not in EXTRAS:  # such as dropped:/x
        return None
    place = path_of(os.path.expanduser(text))
    if text.endswith(".json"):
        return place
    if is_url(place) or exists(place):
        file = inside(place, PATH_FILE)
        return file if exists(file) else None
    name, _, revision = text.partition("@")
    if "/" in name and HUB_ID.fullmatch(name):
        file = download_file(name, PATH_FILE, revision or None)
        return None if file is None else epath.Path(file)
    return None


def read_path(
    text: str, num_layers: int, model: Identity | None = None, max_length: int | None = None
) -> LayerPath:
    """Read a path from its text form, or from the file that a text names.

    Raises InputError for a text that names no file with a path, a file of another model than
    `model`, and a path that does not fit it, or has more than `max_length` steps, by default
    2 * num_layers.
    """
    file = find_path_file(text)
    if file is None:
        if not PATH_TEXT.fullmatch(text) and ("/" in text or os.path.exists(text)):
            raise InputError(f"{printed(text)} names no path: {FORMS}.")
        return parse_path(text, num_layers, max_length)
    read = PathFile.read(file, text)
    path = read.layers_of(text, num_layers, model, max_length)
    log.info("%s: %s", printed(text), read.describe())
    if read.found not in (None, read.path):
        log.warning(
            "%s recommends the path %s, which is used: to use the one that was found, give %s",
            text,
            format_path(path),
            printed(str(read.found)),
        )
    return path
