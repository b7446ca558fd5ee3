"""Compare vLLM along paths with `run_path`, and count the bytes of its weights.

`python -m tests.deploy.serve.in_vllm FOLDER...` runs where vLLM and this package are installed, on
what `cases` has written. Prints the worst differences of log-probabilities, and fails above BOUND.
"""

# pyright: reportMissingImports=false

import json
import os
import sys
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

from cola_jax.deploy.serve import layers

BOUND = 1e-4
NEW_TOKENS = 8
Counts = dict[str, int]


def bytes_of(module: nn.Module) -> int:
    """Count the bytes of weights, those that several names share once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    return sum(tensors.values())


def counted(counts: Counts) -> Any:
    """Return `put_in_order` that records the bytes of the base, of skipped layers and of a path."""
    put_in_order = layers.put_in_order

    def put_and_count(model: nn.Module, num_layers: int, path: Sequence[int], *rest: Any) -> None:
        owner, name = layers.find_layers(model, num_layers)
        each = [bytes_of(layer) for layer in owner.get_submodule(name).children()]
        counts["base"] = bytes_of(model)
        counts["skipped"] = sum(each[layer] for layer in {*range(num_layers)}.difference(path))
        put_in_order(model, num_layers, path, *rest)
        counts["path"] = bytes_of(model)

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
    return answer


def main(folders: Sequence[str], **options: Any) -> bool:
    """Compare all cases; return whether they agree."""
    agree = True
    for folder in map(Path, folders):
        content = json.loads((folder / "expected.json").read_text())
        ids = content["ids"]
        options["dtype"] = content["dtype"]
        for case in content["cases"]:
            if "copy" in case:
                right = ask(folder / case["copy"], ids, **options)
            else:
                right = Answer(torch.tensor(case["logprobs"]), case["tokens"])
            answer = run_case(folder, ids, case, **options)
            error = float((answer.logprobs - right.logprobs).abs().max())
            same = answer.tokens == right.tokens
            tokens = "equal" if same else "DIFFERENT"
            path = case["overrides"]["cola_path"]
            against = "a copy" if "copy" in case else "run_path"
            print(
                f"{folder.name:16} {error:.1e} from {against}, tokens {tokens}: {path}", flush=True
            )
            agree &= same and error < BOUND
    return agree


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
