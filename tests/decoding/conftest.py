"""Models of real sizes, for the slow tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """A model of the sizes that people run, by its name. Only `make test-slow` fetches them."""

    def get(name: str) -> Path:
        path = Path(__file__).parents[2] / "build" / "models" / f"{name}.gguf"
        if not path.exists():
            pytest.skip(f"{path.name} is not there; `make models` fetches it")
        return path

    return get
