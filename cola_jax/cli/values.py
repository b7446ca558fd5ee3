"""Values of flags that people write in several ways, each read into one."""

from collections.abc import Callable
from typing import Annotated, Any

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from cola_jax.cli.flag_table import read_number
from cola_jax.errors import InputError, did_you_mean, shown

DTYPES = {
    "auto": None,
    "float32": "float32",
    "fp32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
}


def read_dtype(text: str) -> str | None:
    """Reads a dtype by any of its usual names; auto is None."""
    if text.lower() not in DTYPES:
        raise InputError(
            f"{shown(text)} is not a dtype{did_you_mean(text, DTYPES)}: give auto, float32, "
            "bfloat16 or float16."
        )
    return DTYPES[text.lower()]


def read_batch_size(text: str) -> int | None:
    """Reads a number of questions; auto is None."""
    if text.lower() == "auto":
        return None
    try:
        return read_number(text, int, "a number")
    except ValueError:
        raise InputError(f"{shown(text)} is not a batch size: give auto or a number.") from None


def value(read: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Tells tyro how a value is read and named; None is written as auto."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda given: given is None or isinstance(given, str | int | float),
        str_from_instance=lambda given: ["auto" if given is None else str(given)],
    )


Dtype = Annotated[str | None, value(read_dtype, "auto|float32|bfloat16|float16")]
BatchSize = Annotated[int | None, value(read_batch_size, "auto|N")]
Output = Annotated[str, arg(name="output", aliases=["-o"], metavar="DIRECTORY")]
Model = Annotated[
    str,
    arg(
        aliases=["-m"],
        metavar="MODEL",
        help="A Hub id (also as ID@REVISION), a local Hugging Face directory, a .gguf file, or a "
        "checkpoint that `cola convert` made. All but the last are converted on first use.",
    ),
]
