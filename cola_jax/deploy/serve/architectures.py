"""The architectures of vLLM whose layers can run along a path."""

PREFIX = "Cola"
PATH = "cola_path"  # fields of a config: the layers in order,
LAYERS = "cola_layers"  # and how many the base model has

TESTED = "compared with run_path"

# each with how far it was tested
ARCHITECTURES = {
    "LlamaForCausalLM": TESTED,
    "MistralForCausalLM": TESTED,
    "Qwen2ForCausalLM": TESTED,
    "Qwen3ForCausalLM": TESTED,
    "GemmaForCausalLM": TESTED,
    "Gemma2ForCausalLM": TESTED,
    "Gemma3ForCausalLM": TESTED,
    "GraniteForCausalLM": TESTED,
    "GraniteMoeForCausalLM": TESTED,
    "Phi3ForCausalLM": TESTED,
    "Exaone4ForCausalLM": TESTED,
    "Glm4ForCausalLM": TESTED,
    "Glm4MoeForCausalLM": TESTED,
    "Ernie4_5ForCausalLM": TESTED,
    "Ernie4_5_MoeForCausalLM": TESTED,
    "MixtralForCausalLM": TESTED,
    "Qwen2MoeForCausalLM": TESTED,
    "Qwen3MoeForCausalLM": TESTED,
    "OlmoeForCausalLM": TESTED,
    "GptOssForCausalLM": TESTED,
    "StableLmForCausalLM": TESTED,
    "MiniMaxM2ForCausalLM": TESTED,
    "Ministral3ForCausalLM": TESTED,
    "Qwen3NextForCausalLM": TESTED,
    "Qwen3_5ForCausalLM": TESTED,
    "Qwen3_5MoeForCausalLM": TESTED,
    "GraniteMoeHybridForCausalLM": TESTED,
    "OlmoHybridForCausalLM": TESTED,
    "ArceeForCausalLM": TESTED,
    "CwmForCausalLM": TESTED,
    "FlexOlmoForCausalLM": TESTED,
    "GlmForCausalLM": TESTED,
    "Olmo2ForCausalLM": TESTED,
    "Olmo3ForCausalLM": TESTED,
    "SeedOssForCausalLM": TESTED,
    "Starcoder2ForCausalLM": TESTED,
    "SmolLM3ForCausalLM": TESTED,
}


def name_of(architecture: str) -> str:
    """Return the name under which an architecture runs along a path."""
    return f"{PREFIX}{architecture}"


def architecture_of(name: str) -> str:
    """Return the architecture of the base model."""
    return name.removeprefix(PREFIX)
