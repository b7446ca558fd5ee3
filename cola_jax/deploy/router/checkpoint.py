"""Router checkpoints: a record of what a router is for, and its weights."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cola_jax.checkpoint import (
    absolute,
    model_digest,
    orbax_writing,
    quieten_orbax,
    read_metadata,
    this_host_only,
)
from cola_jax.config import LIMIT, MOST_LAYERS
from cola_jax.deploy.router.designs import (
    Design,
    DesignName,
    LayerDesign,
    SegmentDesign,
    make_design,
)
from cola_jax.errors import InputError, printed, reading, shown
from cola_jax.execute.reference import replicated
from cola_jax.files import read_json, write_whole
from cola_jax.identity import check_belongs, digest
from cola_jax.params import Model
from cola_jax.runs.settings import check_same

LAYOUT = 2  # increased whenever a change makes routers unreadable for older versions
RECORD = "router.json"
WEIGHTS = "weights"
TRAINING = "training"  # the folder of training states
FIELDS = ConfigDict(strict=True)
DESIGNS = {design.name: TypeAdapter(design) for design in (LayerDesign, SegmentDesign)}
Size = Annotated[int, Field(ge=1, lt=LIMIT)]


class ModelRecord(BaseModel):
    """The model that a router is for."""

    model_config = FIELDS

    name: str
    identity: str | None
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    width: Size


class Record(BaseModel):
    """What is recorded of a router."""

    model_config = FIELDS

    layout: int
    model: ModelRecord
    design: DesignName
    network: dict[str, int]
    settings: dict[str, Any]
    weights: str | None = None  # their digest, once training has finished


RECORDED = TypeAdapter(Record)


def describe_model(model: Model, name: str, identity: str | None) -> dict[str, Any]:
    """Returns what is recorded of a model; `identity` is that of its checkpoint."""
    config = model.config
    sizes = {"num_layers": config.num_layers, "width": config.width}
    return {"name": name, "identity": identity, **sizes}


def check_model(directory: epath.PathLike, record: Mapping[str, Any], model: Model) -> None:
    """Raises InputError where a router was trained for another model than this one."""
    theirs, known = dict(record["model"]), None
    if model.checkpoint is not None:
        known = model_digest(read_metadata(model.checkpoint))
    name = theirs.pop("name")
    action = f"load {printed(name)}, or train a router for this model with `cola distill`"
    ours = describe_model(model, "", known)
    check_belongs(f"the router {directory}", theirs, "this model", ours, action)


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
        old = read_record(folder)
        check_same(folder, old, {**record, "weights": old.get("weights")})
        return
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, record)


def write_record(directory: epath.PathLike, record: Mapping[str, Any]) -> None:
    """Writes the record of a router."""
    write_whole(absolute(directory) / RECORD, (json.dumps(record, indent=2) + "\n").encode())


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
    """Writes the weights of a trained router, and their digest into its record."""
    with orbax_writing(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(absolute(directory) / WEIGHTS, params, force=True)
    write_record(directory, read_record(directory) | {"weights": weights_digest(params)})


def weights_digest(params: Any) -> str:
    """Returns the digest of a router's weights."""
    leaves = [(str(place), np.asarray(x)) for place, x in jax.tree.leaves_with_path(params)]
    sums = (hashlib.sha256(leaf.tobytes()).hexdigest() for _, leaf in leaves)
    shapes = ([place, str(leaf.dtype), leaf.shape] for place, leaf in leaves)
    return digest(*zip(shapes, sums, strict=True))


def router_digest(directory: epath.PathLike) -> str:
    """Returns the digest of a router: of its model, its design and its weights."""
    record = read_record(directory)
    return digest(record["model"], record["network"], record["weights"])


def load_weights(directory: epath.PathLike, record: Mapping[str, Any], model: Model) -> Any:
    """Reads the weights of a router onto the devices of a model.

    Raises InputError where training did not finish, and for other weights than those recorded.
    """
    folder, design = absolute(directory) / WEIGHTS, design_of(record)
    if not folder.exists() or record.get("weights") is None:
        raise InputError(
            f"the training of {directory} did not finish: re-run the same command to resume it."
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(model)),
        jax.eval_shape(design.init, jax.random.key(0)),
    )
    quieten_orbax()
    with ocp.StandardCheckpointer(multiprocessing_options=this_host_only()) as checkpointer:
        try:
            params = checkpointer.restore(folder, abstract)
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            raise InputError(
                f"the weights of {directory} could not be restored: train it again ({error})."
            ) from error
    theirs, ours = {"weights": record["weights"]}, {"weights": weights_digest(params)}
    check_belongs(str(absolute(directory) / RECORD), theirs, str(folder), ours, "train it again")
    return params
