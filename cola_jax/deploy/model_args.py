"""The arguments of the harness's model `cola`: `--model_args checkpoint=...,path=...`."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from cola_jax.checkpoint import Dtype
from cola_jax.errors import InputError, did_you_mean, reading
from cola_jax.runs.devices import Devices

SET_BY_HARNESS = (None, "cuda:0")  # the device where the user gave none
# the harness cuts its arguments at commas, which a path has as well
PATH = re.compile(r"""(?<![^,])path=["']?[-\d,()x ]+?["']?(?=,\s*[A-Za-z_]+=|,?$)""")


def path_text(path: Any) -> str:
    """Return a path as text, of one with + for commas, a list of layers, or a single layer."""
    layers = path if isinstance(path, list | tuple) else [path]
    return ",".join(map(str, layers)).replace("+", ",").strip("[]")


def chosen_size(value: Any) -> Any:
    """Return None for auto, and for 1, which the harness passes where none is given."""
    return None if str(value).split(":")[0] in ("auto", "1") else value


class ModelArguments(BaseModel):
    """The fields of `--model_args`."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    checkpoint: str = Field(validation_alias=AliasChoices("checkpoint", "pretrained"))
    path: Annotated[str | None, BeforeValidator(path_text)] = None
    router: str | None = None
    menu: str | None = None
    dtype: Dtype | None = None
    batch_size: Annotated[PositiveInt | None, BeforeValidator(chosen_size)] = None
    max_length: PositiveInt | None = None
    max_gen_toks: PositiveInt = 256
    add_bos_token: bool | None = None
    memory_budget: str | None = None
    data: int | None = None
    tensor: int = 1
    device: str | None = None

    @property
    def devices(self) -> Devices:
        """The devices to use, with the memory budget."""
        return Devices(data=self.data, tensor=self.tensor, memory_budget=self.memory_budget)

    def check_device(self, backend: str) -> None:
        """Raise InputError for a device other than JAX's backend, which the harness cannot set."""
        wanted = str(self.device).split(":")[0].replace("cuda", "gpu")
        if self.device not in SET_BY_HARNESS and wanted != backend:
            raise InputError(
                f"the device asked for is {self.device!r}, but JAX runs on {backend} here: leave "
                "the device out, and set JAX_PLATFORMS."
            )


def read_arguments(arguments: Mapping[str, Any]) -> ModelArguments:
    """Read arguments as the harness passes them, as values or as text.

    Raises InputError for unknown names, naming the nearest, and for unfit values.
    """
    values = {name: value for name, value in arguments.items() if value is not None}
    known = ["checkpoint", "pretrained", *list(ModelArguments.model_fields)[1:]]
    for name in values:
        if name not in known:
            raise InputError(
                f"the model cola takes no argument {name!r}{did_you_mean(name, known)}: it takes "
                f"{', '.join(known)}."
            )
    if ("checkpoint" in values) == ("pretrained" in values):
        raise InputError(
            "the model cola needs either checkpoint=MODEL or pretrained=MODEL: a Hub id, a local "
            "Hugging Face directory, a .gguf file, or what `cola convert` made."
        )
    if len(both := [name for name in ("path", "router", "menu") if name in values]) > 1:
        raise InputError(f"{' and '.join(both)} both name the paths: give one.")
    with reading("model_args"):
        read = ModelArguments.model_validate(values)
    _ = read.devices  # their own checks
    return read


def join_path(argument: str) -> str:
    """Write the commas of a path in an argument as +, for the harness's own parser."""
    return PATH.sub(lambda match: match[0].replace(",", "+"), argument)
