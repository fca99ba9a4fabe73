"""An engine with a small context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pass_edge import Engine, Settings


@pytest.fixture(scope="module")
def engine(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(threads=1, context_size=1024)) as engine:
        yield engine
