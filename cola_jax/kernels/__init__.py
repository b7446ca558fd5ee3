"""Attention by XLA, by libraries, and by kernels of our own."""
