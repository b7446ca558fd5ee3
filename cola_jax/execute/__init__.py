"""Execution of paths: `reference` defines the meaning of a path, `run_paths` is the fast one."""
