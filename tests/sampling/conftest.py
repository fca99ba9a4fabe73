"""Engines for a model with a tokenizer: one that decodes plainly, and one for each way to draft."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine, Lookahead, Settings
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.embeddings import TokenEmbeddings
from tests.support.lookaheads import random_head


@pytest.fixture(scope="module")
def plain(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(schedule="plain", threads=1)) as engine:
        yield engine


@pytest.fixture(scope="module", params=["auto", "head", "fused"])
def drafting(speaking_path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    candidates = np.array([*(3 + byte for byte in b'[]{}",:.yesnothabc01 '), *range(259, 275)], np.int32)
    rows = TokenEmbeddings(speaking_path).rows(candidates[:2])
    lookahead = Lookahead(
        embeddings=rows,
        base=read_base(speaking_path),
        candidates=np.unique(candidates),
        head=random_head(3),
        hidden_head=random_head(4),
    )
    chosen = Settings(schedule=request.param, threads=1, draft_max=None if request.param == "auto" else 2)
    with Engine(speaking_path, lookahead=lookahead, settings=chosen) as engine:
        assert engine.schedule == request.param
        yield engine
