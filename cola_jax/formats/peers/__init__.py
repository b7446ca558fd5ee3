"""Formats of other projects that search or publish paths: PoLar, Dr.LLM, RYS and mergekit."""
