import json
import os
import sys

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
from vllm import LLM, SamplingParams


def run(folder):
    content = json.load(open(f"{folder}/expected.json"))
    for case in content["cases"]:
        llm = LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=os.environ.get("EAGER", "1") == "1",
            max_model_len=64,
            hf_overrides=case["overrides"],
            seed=0,
            **json.loads(os.environ.get("EXTRA", "{}")),
        )
        out = llm.generate(
            [{"prompt_token_ids": content["ids"]}],
            SamplingParams(
                temperature=0,
                max_tokens=len(case["tokens"]),
                prompt_logprobs=0,
                logprobs=0,
                detokenize=False,
                ignore_eos=True,
            ),
            use_tqdm=False,
        )[0]
        lp = [list(x.values())[0].logprob for x in out.prompt_logprobs[1:]]
        err = max(abs(a - b) for a, b in zip(lp, case["prompt_logprobs"]))
        toks = out.outputs[0].token_ids
        lp2 = [list(x.values())[0].logprob for x in out.outputs[0].logprobs]
        err2 = max(abs(a - b) for a, b in zip(lp2, case["logprobs"]))
        model = (
            llm.llm_engine.model_executor.driver_worker.worker.get_model()
            if hasattr(llm.llm_engine, "model_executor")
            else None
        )
        n = sum(p.numel() for p in model.parameters()) if model is not None else None
        print(
            "RESULT",
            folder.split("/")[-1],
            case["overrides"]["cola_path"],
            f"{err:.2e} {err2:.2e}",
            list(toks) == case["tokens"],
            n,
            flush=True,
        )
        del llm


for folder in sys.argv[1:]:
    try:
        run(folder)
    except BaseException as e:
        import traceback

        traceback.print_exc()
        print("RESULT", folder.split("/")[-1], "FAILED", type(e).__name__, str(e)[:300], flush=True)
