"""Routers: small networks that name a path from the prompt alone."""

from cola_jax.deploy.router.routing import Router, load_router

__all__ = ["Router", "load_router"]
