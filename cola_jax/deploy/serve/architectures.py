"""The architectures of vLLM whose layers can run along a path, and how far each was tested."""

PREFIX = "Cola"
PATH_FIELD = "cola_path"  # fields of a config: the layers, or other steps, in order,
LAYERS_FIELD = "cola_layers"  # and how many the base model has

# on a CPU, by tests/deploy/serve; in float32 if nothing else is said
EQUAL = "log-probabilities equal those of run_path"
# where vLLM's base model itself differs from transformers, or runs in bfloat16 alone
COPY = "log-probabilities equal those of vLLM on a copy of the layers"
UNTESTED = "vLLM cannot run it on a CPU"

ARCHITECTURES = {
    "ArceeForCausalLM": EQUAL,
    "CwmForCausalLM": EQUAL,
    "Ernie4_5ForCausalLM": EQUAL,
    "Ernie4_5_MoeForCausalLM": COPY,
    "Exaone4ForCausalLM": EQUAL,
    "FlexOlmoForCausalLM": EQUAL,
    "Gemma2ForCausalLM": EQUAL,
    "Gemma3ForCausalLM": EQUAL,
    "GemmaForCausalLM": EQUAL,
    "Glm4ForCausalLM": EQUAL,
    "Glm4MoeForCausalLM": EQUAL,
    "GlmForCausalLM": EQUAL,
    "GptOssForCausalLM": COPY,
    "GraniteForCausalLM": EQUAL,
    "GraniteMoeForCausalLM": EQUAL,
    "GraniteMoeHybridForCausalLM": EQUAL,
    "LlamaForCausalLM": EQUAL,
    "MiniMaxM2ForCausalLM": UNTESTED,
    "Ministral3ForCausalLM": EQUAL,
    "MistralForCausalLM": EQUAL,
    "MixtralForCausalLM": EQUAL,
    "Olmo2ForCausalLM": EQUAL,
    "Olmo3ForCausalLM": EQUAL,
    "OlmoHybridForCausalLM": UNTESTED,
    "OlmoeForCausalLM": EQUAL,
    "Phi3ForCausalLM": EQUAL,
    "Qwen2ForCausalLM": EQUAL,
    "Qwen2MoeForCausalLM": EQUAL,
    "Qwen3ForCausalLM": EQUAL,
    "Qwen3MoeForCausalLM": EQUAL,
    "Qwen3NextForCausalLM": COPY,  # in bfloat16
    "Qwen3_5ForCausalLM": COPY,  # in bfloat16
    "Qwen3_5MoeForCausalLM": COPY,  # in bfloat16
    "SeedOssForCausalLM": EQUAL,
    "SmolLM3ForCausalLM": EQUAL,
    "StableLmForCausalLM": EQUAL,
    "Starcoder2ForCausalLM": EQUAL,
}


def name_of(architecture: str) -> str:
    """Return the name under which an architecture runs along a path."""
    return f"{PREFIX}{architecture}"


def architecture_of(name: str) -> str:
    """Return the architecture of the base model."""
    return name.removeprefix(PREFIX)
