"""Router checkpoints: a record of what a router is for, and its weights."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.typing import DTypeLike
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cola_jax.checkpoint import absolute, orbax_writing, quieten_orbax, this_host_only
from cola_jax.config import LIMIT, MOST_LAYERS
from cola_jax.deploy.router.designs import (
    Design,
    DesignName,
    LayerDesign,
    SegmentDesign,
    make_design,
)
from cola_jax.errors import InputError, printed, reading, shown
from cola_jax.files import read_json, write_whole
from cola_jax.params import Model, shapes
from cola_jax.runs.growth import check_same

LAYOUT = 1  # increased whenever a change makes routers unreadable for older versions
RECORD = "router.json"
WEIGHTS = "weights"
TRAINING = "training"  # the folder of training states
FIELDS = ConfigDict(strict=True)
DESIGNS = {design.name: TypeAdapter(design) for design in (LayerDesign, SegmentDesign)}
Size = Annotated[int, Field(ge=1, lt=LIMIT)]


class Prints(BaseModel):
    """What identifies the weights of a model in either dtype."""

    model_config = FIELDS

    bfloat16: str
    float16: str


class ModelRecord(BaseModel):
    """The model that a router is for."""

    model_config = FIELDS

    name: str
    identity: str | None
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    width: Size
    fingerprint: Prints


class Record(BaseModel):
    """What is recorded of a router."""

    model_config = FIELDS

    layout: int
    model: ModelRecord
    design: DesignName
    network: dict[str, int]
    settings: dict[str, Any]


RECORDED = TypeAdapter(Record)


def fingerprint(model: Model) -> dict[str, str]:
    """Identifies a model by its config and sums of its weights' bits, rounded to either dtype.

    A checkpoint loaded with another dtype is the same model, and rounding again changes nothing:
    models are compared in float16 where one is in float16, else in bfloat16.
    """
    config = json.dumps(model.config.to_json(), sort_keys=True)
    weights = {
        name: getattr(model if hasattr(model, name) else model.layers, name)
        for name in shapes(model.config)
    }
    prints = {}
    for dtype in ("bfloat16", "float16"):
        sha = hashlib.sha256(config.encode())
        for name, weight in sorted(weights.items()):
            rows = np.asarray(row_sums(weight, dtype=jnp.dtype(dtype)))
            sha.update(name.encode() + rows.tobytes())
        prints[dtype] = sha.hexdigest()[:16]
    return prints


@functools.partial(jax.jit, static_argnames="dtype")
def row_sums(weight: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Sums the bit patterns of a weight's rows, modulo 2**32; rows in another order differ."""
    bits = jax.lax.bitcast_convert_type(weight.astype(dtype), jnp.uint16)
    return bits.astype(jnp.uint32).sum(axis=tuple(range(1, bits.ndim)), dtype=jnp.uint32)


def describe(record: Mapping[str, Any]) -> str:
    """Names a model in an error, by what is known of it."""
    prints = record["fingerprint"]
    return (
        f"{printed(record['name'])} ({record['num_layers']} layers of width {record['width']}, "
        f"weights {printed(prints['bfloat16'])})"
    )


def describe_model(model: Model, name: str, identity: str | None) -> dict[str, Any]:
    """Returns what is recorded of a model; `identity` is that of its checkpoint."""
    return {
        "name": name,
        "identity": identity,
        "num_layers": model.config.num_layers,
        "width": model.config.width,
        "fingerprint": fingerprint(model),
    }


def check_model(directory: epath.PathLike, record: Mapping[str, Any], model: Model) -> None:
    """Raises ValueError where a router was trained for another model than this one."""
    wanted, given = record["model"], describe_model(model, "the model given", None)
    dtype = "float16" if model.embedding.dtype == jnp.float16 else "bfloat16"
    if wanted["fingerprint"][dtype] != given["fingerprint"][dtype]:
        raise InputError(
            f"the router {directory} was trained for {describe(wanted)}, not for "
            f"{describe(given)}: load that model, or train a router for this one with "
            "`cola distill`."
        )


def refuse_foreign(directory: epath.PathLike) -> None:
    """Raises ValueError for a directory that holds something else than a router."""
    folder = absolute(directory)
    if not folder.exists() or (folder / RECORD).exists():
        return
    # a hidden file may be a record that was not written to its end
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InputError(f"{folder} exists and is not a router: choose another directory.")


def begin(directory: epath.PathLike, record: Mapping[str, Any]) -> None:
    """Creates the directory of a router, or resumes its training.

    Raises ValueError where it was created with other settings, or holds something else.
    """
    folder = absolute(directory)
    if (folder / RECORD).exists():
        check_same(folder, read_record(folder), record)
        return
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def make_record(model: Mapping[str, Any], design: Design, settings: Mapping[str, Any]) -> Any:
    """Returns the record of a router: its model, its design, and how it was trained."""
    return {
        "layout": LAYOUT,
        "model": dict(model),
        "design": design.name,
        "network": dataclasses.asdict(design),
        "settings": dict(settings),
    }


def read_record(directory: epath.PathLike) -> dict[str, Any]:
    """Reads the record of a router; ValueError where there is none, or it cannot be read."""
    file = absolute(directory) / RECORD
    if not file.exists():
        raise InputError(f"{directory} has no {RECORD}: train a router with `cola distill`.")
    record = read_json(file)
    layout = record.get("layout")
    if type(layout) is int and layout != LAYOUT:
        raise InputError(
            f"{directory} has layout {shown(layout)}, but this version reads {LAYOUT}: train the "
            "router again, or use the version of cola-jax that wrote it."
        )
    with reading(file, "Train the router again with `cola distill`."):
        RECORDED.validate_python(record)
        check_design(record, str(file))
    return record


def check_design(record: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where the network is not one for the model."""
    design, model = design_of(record, where), record["model"]
    if (design.num_layers, design.width) != (model["num_layers"], model["width"]):
        raise InputError(f"{where}: network is for a model of another size than model.")
    make_design(design.name, design.num_layers, design.width, record["network"].get("early_layers"))


def design_of(record: Mapping[str, Any], where: str = RECORD) -> Design:
    """Makes the design that a record names."""
    with reading(f"{where}: network"):
        return DESIGNS[record["design"]].validate_json(json.dumps(record["network"]))


def save_weights(directory: epath.PathLike, params: Any) -> None:
    """Writes the weights of a trained router."""
    with orbax_writing(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(absolute(directory) / WEIGHTS, params, force=True)


def load_weights(directory: epath.PathLike, design: Design, sharding: jax.sharding.Sharding) -> Any:
    """Reads the weights of a router onto devices; ValueError where training did not finish."""
    folder = absolute(directory) / WEIGHTS
    if not folder.exists():
        raise InputError(
            f"the training of {directory} did not finish: re-run the same command to resume it."
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(design.init, jax.random.key(0)),
    )
    quieten_orbax()
    with ocp.StandardCheckpointer(multiprocessing_options=this_host_only()) as checkpointer:
        try:
            return checkpointer.restore(folder, abstract)
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            raise InputError(
                f"the weights of {directory} could not be restored: train it again ({error})."
            ) from error
