"""How attention is computed: by XLA, by libraries, and by kernels of our own."""
