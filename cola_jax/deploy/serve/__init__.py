"""The plugin of vLLM, which serves paths; it imports neither JAX nor the rest of the package."""
