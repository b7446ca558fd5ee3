"""The plugin of vLLM, which serves paths; it imports no JAX, and only steps of the package."""
