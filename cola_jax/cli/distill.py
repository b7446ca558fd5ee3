"""`cola distill`."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from cola_jax.cli.flags import (
    check_one_task,
    check_output,
    check_task,
    checkpoint_of,
    console,
    write_config,
)
from cola_jax.cli.report import print_json
from cola_jax.cli.values import Dtype, Model, Output
from cola_jax.cli.verbosity import log, log_devices
from cola_jax.errors import InputError
from cola_jax.runs.devices import Devices
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.deploy.router.distill import DistillConfig, Distilled


@dataclasses.dataclass(frozen=True)
class Distill:
    """Train a router, which names a path from the prompt alone, on the correct paths of a run."""

    model: Model
    source: Annotated[str, arg(name="run")]
    """Run directory of `cola search`, whose correct paths are learned."""
    out: Output
    """Directory of the router: created, or its training resumed."""
    task: OmitArgPrefixes[TaskConfig]
    design: Literal["drllm", "polar"] = "drllm"
    """Kind of router. drllm: a skip, execute or repeat head for each layer, decided on the states
    before it; polar: segments of up to four layers and their operations, from the states after the
    early layers."""
    early_layers: int | None = None
    """Layers whose states the design polar reads; a quarter of the model's by default."""
    labels: Literal["shortest", "all"] = "shortest"
    """Which of a question's correct paths are learned: the shortest, or all, each with weight 1/n;
    of a run with variants, paths that are right in all of them."""
    validation: float = 0.2
    """Share of the run's questions to hold out, chosen by a hash of their ids."""
    beams: int = 1
    """Paths named for each held-out question; accuracy is that of the first."""
    epochs: int = 25
    """Passes over the training examples."""
    batch_size: int = 16
    """Examples of a training step."""
    learning_rate: float = 1e-3
    """Peak learning rate, after a warm-up and before a cosine decay."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    seed: int = 0
    """Random seed of the network, of dropout and of the order of examples."""
    save_every: int = 100
    """Steps between saved training states, at most; slow steps are saved every ten seconds."""
    track: Literal["tensorboard", "wandb"] | None = None
    """Also send metrics to TensorBoard or Weights & Biases (extra `tracking`)."""
    dtype: Dtype = None
    """Dtype of the model's weights and activations; auto is float32 on a CPU, else the
    checkpoint's own."""
    devices: OmitArgPrefixes[Devices] = dataclasses.field(default_factory=Devices)
    json: bool = False
    """Print the figures as JSON, as metrics.json has them."""

    def run(self) -> None:
        check_one_task("distill", self.task)
        check_output(self.out)
        check_task(self.task.task)
        from cola_jax.deploy.router.designs import make_design
        from cola_jax.deploy.router.distill import distill
        from cola_jax.deploy.router.tracking import check_tracker
        from cola_jax.runs.directory import RunDirectory
        from cola_jax.runs.session import RunConfig, Session

        RunDirectory(self.source).manifest()  # or it is not a run
        config = self.config()
        check_tracker(self.track)
        run_config = RunConfig(dtype=self.dtype, devices=self.devices)
        checkpoint_of(self.model)
        session = Session.prepare(self.model, self.task.prepare, run_config)
        log_devices()
        sizes = session.config.num_layers, session.config.width
        design = make_design(self.design, *sizes, self.early_layers)
        distilled = distill(
            session,
            self.source,
            self.out,
            design,
            config,
            beams=self.beams,
            track=self.track,
            report=self.after_epoch,
        )
        write_config(self.out, self)
        if self.json:
            print_json(distilled.to_json())
        else:
            show(distilled)

    def after_epoch(self, epoch: int, epochs: int, loss: float) -> None:
        """Says how training goes; only then it is sure that the directory is ours to write to."""
        log.info("epoch %d/%d  loss %.4f", epoch, epochs, loss)
        write_config(self.out, self)

    def config(self) -> "DistillConfig":
        """Checks and returns what a router is trained on, and how."""
        from cola_jax.deploy.router.distill import DistillConfig
        from cola_jax.deploy.router.train import TrainingConfig

        if self.beams < 1:
            raise InputError(f"at least 1 path is named for a question, not {self.beams}.")
        training = TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )
        return DistillConfig(self.labels, self.validation, training, self.save_every)


def show(distilled: "Distilled") -> None:
    """Prints what a router is worth."""
    from cola_jax.deploy.router.summary import lines

    for line in lines(distilled):
        console.print(line, soft_wrap=True, highlight=False)
