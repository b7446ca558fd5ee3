"""`cola convert`."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from cola_jax.cli.flags import console
from cola_jax.cli.signals import keeping
from cola_jax.cli.values import Dtype
from cola_jax.cli.verbosity import errors


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert pretrained weights into a checkpoint that every other command takes."""

    source: Positional[str]
    """A Hub id, a local directory in Hugging Face layout, or a .gguf file."""
    destination: Positional[Path]
    """Directory to make."""
    dtype: Dtype = None
    """Dtype of the converted weights; auto is the source's own, float32 for GGUF."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    overwrite: bool = False
    """Replace an existing destination."""

    def run(self) -> None:
        from cola_jax.formats.conversion import convert
        from cola_jax.runs.progress import byte_bar

        bar = byte_bar(errors, f"converting {self.source}")
        with keeping("nothing was converted."), bar as on_progress:
            metadata = convert(
                self.source,
                self.destination,
                dtype=self.dtype,
                revision=self.revision,
                overwrite=self.overwrite,
                on_progress=on_progress,
            )
        config = metadata["config"]
        console.print(
            f"{self.destination}: {config['num_layers']} layers, width {config['width']}, "
            f"{metadata['dtype']}, digest {metadata['digest'][:12]}"
        )
