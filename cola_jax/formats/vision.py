"""Pictures in prompts: a model's own tower and projector make them embeddings of tokens.

transformers runs the processor, the tower and the projector, once for each picture; the language
model is ours.
"""

import contextlib
import functools
import os
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cola_jax import checkpoint
from cola_jax.errors import InputError, reading
from cola_jax.files import cache_directory, exists, is_file, read_bytes, write_whole
from cola_jax.formats.conversion import locate
from cola_jax.formats.multimodal import NOT_AS_TEXT, SEEING
from cola_jax.formats.pictures import open_picture
from cola_jax.question import PICTURE, sha256_of

ADAPTER = "adapter_config.json"


class Embedded(NamedTuple):
    """A picture as the language model reads it."""

    ids: np.ndarray  # [T], the tokens in place of the placeholder
    places: np.ndarray  # [I], indices into them
    embeddings: np.ndarray  # [I, D], float32


class Tower:
    """The parts of a checkpoint's original model that read pictures, loaded when first needed."""

    def __init__(self, directory: str | None):
        """Take a checkpoint; InputError for one whose model reads no pictures, and for None."""
        if directory is None:
            raise InputError("pictures need a model that was loaded from a checkpoint.")
        metadata = checkpoint.read_metadata(directory)
        origin = metadata["origin"]
        name = origin["name"]
        kind = origin.get("multimodal")
        if kind not in SEEING:
            why = "its model reads text alone" if kind is None else f"it is a {kind}"
            why += f", which has {NOT_AS_TEXT[kind]}" if kind in NOT_AS_TEXT else ""
            raise InputError(
                f"{name} cannot be asked about pictures: {why}. Use a model of "
                f"{', '.join(SEEING)}, or questions without pictures."
            )
        with reading(f"the vision tower of {directory}", "Convert the model again."):
            # a local source is never a Hub id, whatever its name
            place = name if origin["kind"] == "hub" else os.path.abspath(name)
            self.source = locate(place, origin["revision"])
        self.key = metadata["digest"][:16]
        self.digest = metadata.get("tower")
        if self.digest is None:
            raise InputError(
                f"{directory} was converted by a version that did not identify vision towers: "
                "convert the model again; where it lies in the cache, after `cola cache --remove`."
            )

    @functools.cached_property
    def parts(self) -> tuple[Any, Any]:
        """Load the processor and the model but for the layers of its language model.

        Raises InputError if the source has changed since the conversion.
        """
        import transformers
        from transformers.utils import logging as log

        tower = self.source.open().tower
        folder = self.source.folder()
        verbosity = log.get_verbosity()
        if tower is None or tower() != self.digest:
            raise InputError(
                f"{folder} has another vision tower than when it was converted: restore it, or "
                "convert the model again."
            )
        if exists(folder / ADAPTER):
            raise InputError(
                f"{folder} has an {ADAPTER}, by which transformers loads other weights: remove "
                "it, or convert a copy without it."
            )
        log.set_verbosity_error()  # it would list the weights that are left out
        try:
            with reading(f"the vision tower in {folder}", "Download it again."):
                processor = transformers.AutoProcessor.from_pretrained(
                    folder, trust_remote_code=False
                )
                config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
                text = config.text_config
                text.num_hidden_layers = 0
                text.layer_types = []
                model = transformers.AutoModelForImageTextToText.from_pretrained(
                    folder, config=config, dtype="float32", use_safetensors=True
                )
        except ImportError as error:
            raise InputError(
                f"pictures need packages ({error}): pip install 'cola-jax[vision]'."
            ) from error
        finally:
            log.set_verbosity(verbosity)
        return processor, model.eval().requires_grad_(False)

    def embed(self, picture: bytes) -> Embedded:
        """Return the tokens and embeddings of a picture, from the cache where it was run before.

        Raises InputError for a picture that is broken or too large.
        """
        file = cache_directory() / "pictures" / self.key / f"{sha256_of(picture)}.safetensors"
        if is_file(file):
            # where it is damaged, it is written again
            with contextlib.suppress(SafetensorError, TypeError):
                return Embedded(**load(read_bytes(file)))
        embedded = self.run(picture)
        write_whole(file, save(embedded._asdict()))
        return embedded

    def run(self, picture: bytes) -> Embedded:
        """Run the processor, the tower and the projector on a picture."""
        image = open_picture(picture)
        processor, model = self.parts
        inputs = processor(
            images=[image], text=PICTURE, add_special_tokens=False, return_tensors="pt"
        )
        pixels = {name: value for name, value in inputs.items() if name.startswith("pixel")}
        features = model.get_image_features(**pixels).pooler_output
        ids = inputs["input_ids"][0].numpy().astype(np.int32)
        places = np.flatnonzero(ids == processor.image_token_id).astype(np.int32)
        embeddings = np.concatenate([part.numpy() for part in features])
        if processor.image_token != PICTURE or len(places) != len(embeddings):
            raise InputError(
                f"the processor writes {len(places)} tokens {processor.image_token} for a picture "
                f"of {len(embeddings)} embeddings, but must write one {PICTURE} for each: repair "
                "its processor_config.json."
            )
        return Embedded(ids, places, embeddings)
