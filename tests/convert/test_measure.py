"""The measured accuracy of drafts is the engine's, and the best tree is the best of all trees."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_edge import Engine, Lookahead, Settings, read_lookahead
from pass_edge.convert.training.acceptance import HIDDEN, LOOKAHEAD
from pass_edge.convert.training.frozen import FrozenModel
from pass_edge.convert.training.measure import UNION, DraftAccuracy, measure
from pass_edge.convert.training.text import TrainingText, make_texts
from pass_edge.drafting.heads import Heads
from pass_edge.models.sidecars import find_lookahead
from pass_edge.native.embeddings import TokenEmbeddings
from tests.support.questions import spread_questions


def best_by_trying_all(shares: np.ndarray, nodes: int) -> float:
    depths, ranks = shares.shape
    paths = [path for d in range(1, depths + 1) for path in itertools.product(range(ranks), repeat=d)]
    chances = {path: float(np.prod([shares[d, r] for d, r in enumerate(path)])) for path in paths}

    def is_tree(chosen: tuple[tuple[int, ...], ...]) -> bool:
        return all(len(path) == 1 or path[:-1] in chosen for path in chosen)

    trees = filter(is_tree, itertools.combinations(paths, min(nodes - 1, len(paths))))
    return 1 + max(sum(chances[path] for path in tree) for tree in trees)


@settings(max_examples=60)
@given(st.data())
def test_the_best_tree_is_the_best_of_all(data: st.DataObject) -> None:
    depths, nodes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    numbers = st.lists(st.floats(0, 1 / 3), min_size=3, max_size=3).map(lambda row: sorted(row, reverse=True))
    shares = np.array(data.draw(st.lists(numbers, min_size=depths, max_size=depths)))
    found = DraftAccuracy(1, shares, 0.0, 0).tokens_per_pass(nodes)
    assert found == pytest.approx(best_by_trying_all(shares, nodes))


def test_lookahead_tokens_count_as_rows_of_the_batch() -> None:
    shares = np.array([[0.5, 0.25], [0.5, 0.0]])
    # with one lookahead token a node, 4 rows hold two nodes; with two, one node and nothing drafted
    assert DraftAccuracy(1, shares, 0.0, 1).tokens_per_pass(4) == pytest.approx(1.5)
    assert DraftAccuracy(1, shares, 0.0, 0).tokens_per_pass(4) == pytest.approx(1 + 0.5 + 0.25 + 0.25)


def share_right(engine: Engine, lookahead: Lookahead, text: TrainingText) -> list[bool]:
    """Whether the engine's hidden head drafts what the model found likeliest, from the same states."""
    heads = Heads(lookahead, TokenEmbeddings(engine.model.path), threads=1)
    right = []
    for i in range(len(text.top_tokens) - 4):
        advanced = heads.advance(text.hidden[i].astype(np.float32), int(text.ids[text.prompt_length + i]))
        assert advanced
        right.append(advanced[1].token_at(advanced[1].logits.argmax())[0] == text.top_tokens[i + 1, 0])
    heads.close()
    return right


def first_tokens(text: TrainingText, count: int) -> TrainingText:
    columns = (column[:count] for column in (text.hidden, text.top_tokens, text.logprobs))
    return TrainingText(text.ids[: text.prompt_length + count], text.prompt_length, *columns)


def test_training_predicts_what_the_engine_finds(model_path: Path, tmp_path: Path) -> None:
    with Engine(model_path, lookahead=None, settings=Settings(schedule="plain")) as engine:
        texts = make_texts(
            engine, spread_questions(13)[3:7], tmp_path, count=4, max_tokens=40, temperatures=(0.0,)
        )
        shipped = find_lookahead(model_path, engine.base)
        assert shipped
        lookahead = read_lookahead(shipped)
        found = [right for text in texts for right in share_right(engine, lookahead, text)]
    texts.append(first_tokens(texts[0], 2))  # too short for any draft to be looked at
    with torch.no_grad():
        measured = measure(FrozenModel(model_path), texts, lookahead)
    assert set(measured) >= {LOOKAHEAD, HIDDEN, UNION}
    assert measured[HIDDEN].anchors == len(found)
    # eight-bit rounding decides near ties, one draft in twenty, either way: over few drafts that is noise
    noise = 2 * (0.05 / len(found)) ** 0.5
    assert measured[HIDDEN].shares[0, 0] == pytest.approx(np.mean(found), abs=0.01 + noise)
    assert measured[HIDDEN].shares[0, 0] > 0.2
    assert measured[UNION].shares[0, :3].sum() > measured[LOOKAHEAD].shares[0, :3].sum()
