"""Compare vLLM along paths with `run_path`, and count the bytes of its weights.

`python -m tests.deploy.serve.in_vllm FOLDER...` runs where vLLM and this package are installed, on
what `cases` has written. Prints the worst differences of log-probabilities, and fails above BOUND.
"""

# pyright: reportMissingImports=false

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

# before vLLM is imported: all models in this process, on few threads
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.config import CompilationConfig, KVTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

from cola_jax.deploy.serve import layers
from cola_jax.deploy.serve.parts import part_of_name
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step
from tests.deploy.serve.quantized import write_quantized

BOUND = 1e-4
NEW_TOKENS = 8
Counts = dict[str, int]


def bytes_of(module: nn.Module) -> int:
    """Count the bytes of weights, those that several names share once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    return sum(tensors.values())


def bytes_that_run(layer: nn.Module, parts: set[int]) -> int:
    """Count the bytes of a layer of which a path runs some parts, or the whole."""
    if not parts:
        return 0
    kept = {WHOLE, ATTENTION, MLP} if WHOLE in parts else parts
    return bytes_of(layer) - sum(
        bytes_of(module)
        for name, module in layer.named_children()
        if part_of_name(name) not in {None, *kept}
    )


def counted(counts: Counts) -> Any:
    """Return `put_in_order` that records bytes of the base, of what is skipped and of a path.

    And how many caches of keys and values the path has.
    """
    put_in_order = layers.put_in_order

    def put_and_count(
        model: nn.Module,
        num_layers: int,
        path: Sequence[Step],
        compilation: CompilationConfig,
        **options: Any,
    ) -> layers.BaseLayers:
        owner, name = layers.find_layers(model, num_layers)
        counts["base"] = bytes_of(model)
        counts["skipped"] = sum(
            bytes_of(layer) - bytes_that_run(layer, {x.part for x in path if x.layer == i})
            for i, layer in enumerate(owner.get_submodule(name).children())
        )
        base = put_in_order(model, num_layers, path, compilation, **options)
        counts["path"] = bytes_of(model)
        registered = compilation.static_forward_context.values()
        counts["caches"] = sum(isinstance(module, AttentionLayerBase) for module in registered)
        counts["attentions"] = sum(step.part != MLP for step in path)
        return base

    return mock.patch.object(layers, "put_in_order", put_and_count)


class Answer(NamedTuple):
    """What vLLM says of a prompt, and decodes after it."""

    logprobs: torch.Tensor  # of the prompt's tokens but the first, then of the decoded ones
    tokens: list[int]


def ask(folder: Path, ids: list[int], **options: Any) -> Answer:
    """Load a model, and ask it."""
    llm = LLM(
        str(folder),
        **{"skip_tokenizer_init": True, "max_model_len": 64, "max_num_seqs": 8},
        **{"enforce_eager": True} | options,
    )
    sampling = SamplingParams(
        temperature=0,
        max_tokens=NEW_TOKENS,
        prompt_logprobs=0,
        logprobs=0,
        detokenize=False,
        ignore_eos=True,
    )
    (answer,) = llm.generate(TokensPrompt(prompt_token_ids=ids), sampling, use_tqdm=False)
    decoded = answer.outputs[0]
    entries = [*answer.prompt_logprobs[1:], *decoded.logprobs]
    values = torch.tensor([next(iter(entry.values())).logprob for entry in entries])
    return Answer(values, list(decoded.token_ids))


def run_case(folder: Path, ids: list[int], case: dict[str, Any], **options: Any) -> Answer:
    """Ask along a path, whose weights are counted."""
    counts: Counts = {}
    with counted(counts):
        answer = ask(folder, ids, hf_overrides=case["overrides"], **options)
    assert counts["path"] == counts["base"] - counts["skipped"], counts
    assert counts["caches"] == counts["attentions"], counts
    return answer


def is_equal(name: str, path: Sequence[int], answer: Answer, right: Answer) -> bool:
    """Print how an answer differs from the right one; return whether they agree."""
    error = float((answer.logprobs - right.logprobs).abs().max())
    tokens = "equal" if answer.tokens == right.tokens else "DIFFERENT"
    print(f"{name:28} {error:.1e}  tokens {tokens}  {list(path)}", flush=True)
    return answer.tokens == right.tokens and error < BOUND


def compare(folder: Path) -> bool:
    """Compare all cases of a model."""
    content = json.loads((folder / "expected.json").read_text())
    options = {"dtype": content["dtype"]}
    agree = True
    for case in content["cases"]:
        if "copy" in case:
            right = ask(folder / case["copy"], content["ids"], **options)
        else:
            right = Answer(torch.tensor(case["logprobs"]), case["tokens"])
        answer = run_case(folder, content["ids"], case, **options)
        against = "a copy" if "copy" in case else "run_path"
        name = f"{folder.name}, {against}"
        agree &= is_equal(name, case["overrides"]["cola_path"], answer, right)
    return agree


def compare_quantized(folder: Path) -> bool:
    """Compare a Llama with quantized weights."""
    content = json.loads((folder / "expected.json").read_text())
    agree = True
    with tempfile.TemporaryDirectory() as place:
        case = content["cases"][1]
        path = case["overrides"]["cola_path"]
        base, copy = Path(place) / "base", Path(place) / "copy"
        write_quantized(folder, base, copy, path)
        right = ask(copy, content["ids"], dtype="bfloat16")
        answer = run_case(base, content["ids"], case, dtype="bfloat16")
        agree &= is_equal("8 bits, a copy", path, answer, right)
    return agree


def refused(folder: Path) -> bool:
    """Ask for what no path is served with; each is refused before weights are read."""
    good = json.loads((folder / "expected.json").read_text())["cases"][0]["overrides"]
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("cannot serve a path: a layer that runs in two places", {}, {"pipeline_parallel_size": 2}),
        ("--enable-lora cannot serve a path", {}, {"enable_lora": True}),
        (
            "--kv-transfer-config cannot serve a path",
            {},
            {"kv_transfer_config": KVTransferConfig("ExampleConnector", kv_role="kv_both")},
        ),
        ("with load format sharded_state cannot serve", {}, {"load_format": "sharded_state"}),
        ("has the layer 6, but", {"cola_path": [0, 6]}, {}),
        ("has the step '0', but", {"cola_path": ["0"]}, {}),
        ("has the step True, but", {"cola_path": [True]}, {}),
        ("has the layer 6, but", {"cola_path": [0, "6m*0.5"]}, {}),
        ("not a share of an update", {"cola_path": [0, "5*3"]}, {}),
        ("has no attention", {"cola_path": ["0m", "1m"]}, {}),
        ("must be a list of layers or other steps", {"cola_path": "0-5"}, {}),
        ("must be a list of layers or other steps", {"cola_path": []}, {}),
        ("has no cola_path", {"cola_path": None}, {}),
        ("one of a model with 30 layers", {"cola_layers": 30}, {}),
        ("one of a model with None layers", {"cola_layers": None}, {}),
        ("one of a model with 6 layers", {"num_hidden_layers": 3}, {}),
        ("ColaGPT2LMHeadModel", {"architectures": ["ColaGPT2LMHeadModel"]}, {}),
    ]
    agree = True
    for message, overrides, options in asked:
        arguments = EngineArgs(
            str(folder), hf_overrides=good | overrides, max_model_len=64, **options
        )
        arguments.skip_tokenizer_init = True
        try:
            arguments.create_engine_config()
        except ValueError as error:
            is_named = message in str(error)
        else:
            is_named = False
        print(f"{'refused' if is_named else 'NOT REFUSED':28} {message}", flush=True)
        agree &= is_named
    return agree


def main(folders: Sequence[str]) -> bool:
    """Compare all models; return whether they agree."""
    places = [Path(folder) for folder in folders]
    agree = [compare(folder) for folder in places]
    for folder in places:
        if folder.name.startswith("llama"):
            agree += [compare_quantized(folder), refused(folder)]
    return all(agree)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
