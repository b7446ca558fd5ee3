"""Files of what serves a task: menus with their selectors, and routers."""

import json
from pathlib import Path

import numpy as np

from cola_jax.deploy.router import RECORD, Record
from cola_jax.deploy.rules import MENU, SELECTOR, load_menu
from tests.fuzz.kind import Kind
from tests.fuzz.models import of_bytes, of_json_text

LAYERS, WIDTH = 5, 8
NAMES = ("menu", "selector", "router record")
CONTENT = {
    "paths": ["0-4", "0,2-4", "0-4,4"],
    "rule": "selector",
    "sign": None,
    "state_layer": 2,
    "model": "digest",
    "num_layers": LAYERS,
    "task": "arc-easy",
}
ROUTER = Record(
    model="someone/model",
    identity="digest",
    num_layers=LAYERS,
    width=WIDTH,
    early_layers=1,
    settings={"labels": "shortest", "validation": 0.2, "epochs": 25, "learning_rate": 0.001},
)


def make(folder: Path) -> None:
    """Makes a menu, and the directory of a router."""
    (folder / "menu").mkdir()
    (folder / "menu" / MENU).write_text(json.dumps(CONTENT))
    shapes = {"mean": WIDTH, "scale": WIDTH, "weights": (WIDTH, 3), "bias": 3}
    np.savez(folder / "menu" / SELECTOR, **{name: np.ones(size) for name, size in shapes.items()})
    ROUTER.save(folder / "router", {"queries": np.zeros((LAYERS, WIDTH), np.float32)})


def kinds(folder: Path) -> dict[str, Kind]:
    """Returns the kinds of files that `make` made."""
    menu, router = folder / "menu", folder / "router"

    def read_router() -> None:
        Record.read(router)
        ROUTER.check_free(router)

    def read_menu() -> None:
        load_menu(str(menu), "digest", LAYERS)

    return {
        "menu": of_json_text(menu / MENU, read_menu, "menu/"),
        "selector": of_bytes(menu / SELECTOR, read_menu),
        "router record": of_json_text(router / RECORD, read_router),
    }
