"""The plugin of vLLM, which serves paths; it imports no JAX, and of the package steps alone."""
