"""The arguments of the harness's model `cola`: `--model_args checkpoint=...,path=...`."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from cola_jax.errors import InputError, did_you_mean
from cola_jax.runs.devices import Devices

DTYPES = ("float32", "bfloat16", "float16")
GIVEN_BY_HARNESS = (None, "cuda:0")  # the device, where nobody asked for one
# the harness cuts its arguments at commas, which a path has as well
BARE_PATH = re.compile(r"(?<![^,])path=(?P<path>[-\d,()x ]+?)(?=,\s*[A-Za-z_]+=|,?$)")


@dataclasses.dataclass(frozen=True)
class ModelArguments:
    """What `--model_args` say, checked."""

    checkpoint: str
    path: str | tuple[int, ...] | None = None  # text, or layer ids
    router: str | None = None
    menu: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    max_gen_toks: int = 256
    add_bos_token: bool | None = None
    memory_budget: str | None = None
    data: int | None = None
    tensor: int = 1
    device: str | None = None

    def __post_init__(self):
        named = [n for n in ("path", "router", "menu") if getattr(self, n) is not None]
        if len(named) > 1:
            both = " and ".join(f"{name} {getattr(self, name)!r}" for name in named)
            raise InputError(f"{both} both name the paths: give one.")
        if self.dtype not in (None, *DTYPES):
            raise InputError(f"dtype is {self.dtype!r}, but must be one of {', '.join(DTYPES)}.")
        for name in ("batch_size", "max_length", "max_gen_toks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, it is {value}.")
        _ = self.devices

    @property
    def devices(self) -> Devices:
        """The devices to use, with the memory budget."""
        return Devices(data=self.data, tensor=self.tensor, memory_budget=self.memory_budget)

    def check_device(self, backend: str) -> None:
        """Raises ValueError for a device other than JAX's backend, which the harness cannot set."""
        wanted = str(self.device).split(":")[0].replace("cuda", "gpu")
        if self.device not in GIVEN_BY_HARNESS and wanted != backend:
            raise InputError(
                f"the device asked for is {self.device!r}, but JAX runs on {backend} here: leave "
                "the device out, and set JAX_PLATFORMS."
            )


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """Reads arguments as the harness passes them, as values or as text.

    Raises ValueError for names that there are not, naming the nearest, and for unfit values.
    """
    for name in given:
        if name not in READERS:
            raise InputError(
                f"the model cola takes no argument {name!r}{did_you_mean(name, READERS)}: it takes "
                f"{', '.join(READERS)}."
            )
    given = dict(given)
    named = given.pop("pretrained", None)  # what the harness's own models call it
    if named is not None and given.get("checkpoint") is not None:
        raise InputError("checkpoint and pretrained both name the model: give one.")
    given["checkpoint"] = given.get("checkpoint") or named
    if given["checkpoint"] is None:
        raise InputError(
            "the model cola needs checkpoint=MODEL: a Hub id, a local Hugging Face directory, a "
            ".gguf file, or a checkpoint that `cola convert` made."
        )
    return ModelArguments(
        **{name: READERS[name](name, value) for name, value in given.items() if value is not None}
    )


def read_text(name: str, value: Any) -> str:
    """Reads a text, which the harness may have taken for a number."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InputError(f"{name} must be a text, it is {value!r}.")
    return str(value)


def read_path(name: str, value: Any) -> str | tuple[int, ...]:
    """Reads a path: its text, with + for a comma, or a list of layer ids."""
    if isinstance(value, list | tuple):
        if not all(type(layer) is int for layer in value):
            raise InputError(f"{name} must list layer ids, it is {value!r}.")
        return tuple(value)
    return read_text(name, value).replace("+", ",")


def read_count(name: str, value: Any) -> int | None:
    """Reads a whole number."""
    try:
        return int(str(value))
    except ValueError:
        raise InputError(f"{name} must be a whole number, it is {value!r}.") from None


def read_batch_size(name: str, value: Any) -> int | None:
    """Reads a batch size; 1 is what the harness passes where none is given."""
    if str(value).split(":")[0] == "auto":
        return None
    count = read_count(name, value)
    return None if count == 1 else count


def read_flag(name: str, value: Any) -> bool:
    """Reads true or false."""
    if str(value).lower() not in ("true", "false"):
        raise InputError(f"{name} must be True or False, it is {value!r}.")
    return str(value).lower() == "true"


READERS: dict[str, Callable[[str, Any], Any]] = {
    "checkpoint": read_text,
    "pretrained": read_text,
    "path": read_path,
    "router": read_text,
    "menu": read_text,
    "dtype": read_text,
    "batch_size": read_batch_size,
    "max_length": read_count,
    "max_gen_toks": read_count,
    "add_bos_token": read_flag,
    "memory_budget": read_text,
    "data": read_count,
    "tensor": read_count,
    "device": read_text,
}


def split_arguments(text: str) -> dict[str, str]:
    """Splits `checkpoint=DIRECTORY,path=0-5,7,7,8-29`; a part without a name continues the last.

    Raises ValueError where the first part has no name.
    """
    given: dict[str, str] = {}
    name = None
    for part in text.split(","):
        if "=" in part:
            name, _, value = part.partition("=")
            name = name.strip()
            given[name] = value
        elif name is not None:
            given[name] += f",{part}"
        elif part.strip():
            raise InputError(f"model_args have {part!r} where name=value belongs.")
    return {name: value.strip(" ,\"'") for name, value in given.items()}


def join_path(argument: str) -> str:
    """Writes the commas of a path in an argument as +, for the harness's own parser."""
    return BARE_PATH.sub(lambda match: match[0].replace(",", "+"), argument)
