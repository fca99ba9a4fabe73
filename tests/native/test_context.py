"""Saved sequences come back bit for bit, and hidden states come with the logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.model import Model


def test_a_saved_sequence_comes_back_bit_for_bit(tiny_path: Path) -> None:
    with Model(tiny_path) as model, Context(model, ContextSettings(cells=256)) as context:

        def next_logits() -> np.ndarray:
            context.decode_tokens(rows_of_sequence(9, 1, outputs=1), np.array([4], np.int32))
            return context.logits(1).copy()

        context.decode_tokens(rows_of_sequence(0, 9), np.arange(9, dtype=np.int32))
        state = context.save_sequence(0)
        before = next_logits()
        context.clear()
        context.restore_sequence(0, state)
        assert context.last_position(0) == 8
        np.testing.assert_array_equal(next_logits(), before)


def test_hidden_states_come_with_the_logits(tiny_path: Path) -> None:
    with Model(tiny_path) as model, Context(model, ContextSettings(cells=256)) as context:
        context.keep_hidden(True)
        context.decode_tokens(rows_of_sequence(0, 3, outputs=1), np.arange(3, dtype=np.int32))
        assert np.isfinite(context.hidden(3)).all()
        assert context.hidden(3).shape == (3, model.n_embd)
        assert context.logits(3).shape == (3, model.n_vocab)
