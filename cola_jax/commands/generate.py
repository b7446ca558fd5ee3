"""`cola generate`."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from rich.text import Text
from tyro.conf import OmitArgPrefixes

from cola_jax.commands.console import console
from cola_jax.commands.material import Dtype
from cola_jax.commands.paths import PathFlags
from cola_jax.runs.devices import Devices


@dataclasses.dataclass(frozen=True)
class Generate:
    """Go on from prompts along paths, greedily; to grade answers, use `cola evaluate`."""

    model: str
    """A checkpoint directory, as `cola convert` makes it."""
    prompt: tuple[str, ...] = ()
    """Texts to go on from."""
    prompts_file: Path | None = None
    """A JSONL file with the field prompt, and id if lines are to be told by one."""
    path_flags: OmitArgPrefixes[PathFlags] = dataclasses.field(default_factory=PathFlags)
    out: Path | None = None
    """A JSONL file of texts, continued where it was stopped; printed by default."""
    max_new_tokens: int = 64
    """The most tokens behind each prompt."""
    stop: tuple[str, ...] = ()
    """Strings that end a text, besides the model's own stop tokens."""
    chat: bool = False
    """Put each prompt through the model's chat template."""
    dtype: Dtype | None = None
    """Of weights and activations; float32 on a CPU by default, else the checkpoint's own."""
    group: int = 64
    """Prompts decoded together; what a kill can lose."""
    devices: OmitArgPrefixes[Devices] = dataclasses.field(default_factory=Devices)

    def run(self) -> None:
        import jax
        import numpy as np

        from cola_jax import checkpoint
        from cola_jax.config import ModelConfig
        from cola_jax.execute import Stop
        from cola_jax.path import identity
        from cola_jax.runs.texts import TextFile, decoded, encode_prompts, read_prompts

        self.devices.check_backend()
        if self.group < 1:
            raise ValueError(f"a group needs at least 1 prompt, it is {self.group}.")
        metadata = checkpoint.read_metadata(self.model)
        config = ModelConfig.from_json(metadata["config"])
        paths = self.path_flags.collect(config.num_layers) or [identity(config.num_layers)]
        tokenizer = checkpoint.load_tokenizer(self.model)
        texts = [(str(i), text) for i, text in enumerate(self.prompt)]
        if self.prompts_file is not None:
            texts += read_prompts(self.prompts_file)
        prompts = encode_prompts(
            texts,
            tokenizer,
            chat=self.chat,
            context=config.context,
            max_new_tokens=self.max_new_tokens,
        )
        stop = Stop(checkpoint.stop_tokens(self.model), self.stop, tokenizer=tokenizer)
        dtype = self.dtype or ("float32" if jax.default_backend() == "cpu" else metadata["dtype"])
        settings: dict[str, Any] = {
            "model": checkpoint.identity(metadata),
            "dtype": dtype,
            "prompts": [(p.id, p.text, np.asarray(p.row.ids).tolist()) for p in prompts],
            "max_new_tokens": self.max_new_tokens,
            "stop": [*stop.tokens, *stop.strings],
        }
        with contextlib.ExitStack() as stack:
            file = None
            if self.out is not None:
                file = stack.enter_context(TextFile(self.out, settings))
                prompts = file.left(prompts, paths)
            if not prompts:
                console.print(f"{self.out} has all of it already.")
                return
            smallest = len(prompts) // -(-len(prompts) // self.group)
            model = checkpoint.load(self.model, dtype=dtype, mesh=self.devices.mesh(smallest))
            for lines in decoded(
                model,
                prompts,
                paths,
                stop=stop,
                max_new_tokens=self.max_new_tokens,
                group=self.group,
                memory_budget=self.devices.budget,
                rows=self.devices.rows,
            ):
                if file is not None:
                    file.append(lines)
                else:
                    show(lines)


def show(lines: list[dict[str, Any]]) -> None:
    """Prints texts behind their prompt's id and path."""
    for line in lines:
        head = f"{line['id']}  {line['path']}  ({line['finish']}, {line['logprob']:.2f}) "
        console.print(Text.assemble((head, "bold"), line["text"]), soft_wrap=True)
