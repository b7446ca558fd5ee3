"""The architectures of vLLM whose layers can run along a path."""

PREFIX = "Cola"
PATH = "cola_path"  # fields of a config: the layers in order,
LAYERS = "cola_layers"  # and how many the base model has

TESTED = "compared with run_path"

# each with how far it was tested
ARCHITECTURES = {
    "LlamaForCausalLM": TESTED,
}


def name_of(architecture: str) -> str:
    """Return the name under which an architecture runs along a path."""
    return f"{PREFIX}{architecture}"


def architecture_of(name: str) -> str:
    """Return the architecture of the base model."""
    return name.removeprefix(PREFIX)
