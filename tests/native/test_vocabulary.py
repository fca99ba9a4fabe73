"""Text survives tokenizing, and control tokens are read only where asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge.native.model import Model
from pass_edge.native.vocabulary import Detokenizer


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(model_path)


def test_text_survives_tokens(model: Model) -> None:
    text = "Grüße, 世界! 🦙\n\tdef f(x): return x**2"
    tokens = model.vocabulary.tokenize(text)
    detokenizer = Detokenizer(model.vocabulary)
    assert "".join(detokenizer.feed([t]) for t in tokens.tolist()) + detokenizer.finish() == text


def test_control_tokens_are_read_only_where_asked(model: Model) -> None:
    vocabulary = model.vocabulary
    assert len(vocabulary.tokenize("<|im_end|>", parse_special=True)) == 1
    assert len(vocabulary.tokenize("<|im_end|>")) > 1
    assert vocabulary.is_end(int(vocabulary.tokenize("<|im_end|>", parse_special=True)[0]))
