"""What a search, an evaluation and a generation work on."""

import dataclasses
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from cola_jax.commands.console import console
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import Hosts
from cola_jax.tasks.task import Asking

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True)
class Material:
    """What a search or an evaluation works on."""

    model: str
    """A checkpoint directory, as `cola convert` makes it."""
    asking: OmitArgPrefixes[Asking]
    out: str
    """The run directory: made, or continued where it was stopped."""
    dtype: Dtype | None = None
    """Of weights and activations; float32 on a CPU by default, else the checkpoint's own."""
    group: int | None = None
    """The most questions in step; what a kill can lose. By default 8 on a CPU, else 64."""
    devices: OmitArgPrefixes[Devices] = dataclasses.field(default_factory=Devices)
    shard: str | None = None
    """Take only a part of the questions, such as 0/4, the first of four; the others are for
    processes elsewhere."""
    hosts: OmitArgPrefixes[Hosts] = dataclasses.field(default_factory=Hosts)

    def prepare(self):
        from cola_jax.runs.directory import Shard
        from cola_jax.runs.session import Session

        if self.shard is not None and self.hosts.distributed:
            raise ValueError(
                "give --shard or --distributed: the hosts that meet share by themselves."
            )
        shard = self.hosts.join() if self.shard is None else Shard.parse(self.shard)
        return Session.prepare(
            self.model,
            self.asking,
            dtype=self.dtype,
            devices=self.devices,
            hosts=self.hosts,
            shard=shard,
        )


def show_use(run: Any) -> None:
    """Prints what the last start of a run took, if it had anything to do."""
    from cola_jax.runs.progress import describe_use

    mine = [s for s in run.manifest()["starts"] if s.get("shard") == str(run.shard)]
    if use := mine[-1].get("use"):
        console.print(describe_use(use), soft_wrap=True)
