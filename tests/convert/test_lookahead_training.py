"""Lookahead learns through a torch model that is llama.cpp's, and a run that is killed loses nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pass_edge import ModelError, SettingsError
from pass_edge.convert.training.frozen import FrozenModel
from pass_edge.convert.training.lookahead import STATE, TrainedLookahead, train_lookahead
from pass_edge.drafting.lookahead_file import read_base, read_lookahead
from pass_edge.models.sidecars import find_lookahead
from pass_edge.native.batch import Rows, rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.questions import spread_questions

Floats = npt.NDArray[np.float32]
WIDTH, VOCABULARY = 64, 12


@dataclass(frozen=True)
class Text:
    ids: npt.NDArray[np.int32]
    prompt_length: int


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "f32.gguf"
    return write_tiny_model(path, n_vocab=VOCABULARY, n_embd=WIDTH, n_head=2, n_ff=128, seed=5)


@pytest.fixture(scope="module")
def frozen(tiny: Path) -> FrozenModel:
    return FrozenModel(tiny, dtype=torch.float32)


@pytest.fixture(scope="module")
def texts(frozen: FrozenModel) -> list[Text]:
    """Random prompts and what the model says most likely follows."""
    rng = np.random.default_rng(0)
    return [answered(frozen, rng.integers(0, VOCABULARY, size=4 + i % 9), 24) for i in range(24)]


def answered(frozen: FrozenModel, prompt: npt.NDArray[np.int64], length: int) -> Text:
    ids = prompt.astype(np.int32)
    for _ in range(length):
        best = frozen.logits(frozen.read(ids).hidden[-1]).argmax()
        ids = np.append(ids, np.int32(best))
    return Text(ids, len(prompt))


def train(frozen: FrozenModel, texts: Sequence[Text], folder: Path, **settings: object) -> TrainedLookahead:
    chosen = {"count": 3, "prefix": 2, "steps": 120, "anchors": 16, "lr": 0.1}
    return train_lookahead(frozen, texts[:-4], texts[-4:], folder, **{**chosen, **settings})  # type: ignore[arg-type]


# -- torch is llama.cpp -------------------------------------------------------------------------------


def in_llama_cpp(
    context: Context, text: Text, anchors: Sequence[int], lookahead: Floats, prefix: Floats
) -> tuple[Floats, Floats]:
    """Logits of the answer's positions, (m, n_vocab), and of the lookahead groups, (A, L, n_vocab)."""
    embeddings = TokenEmbeddings(context.model.path)
    count, spare = len(lookahead), context.settings.sequences - 1
    context.clear()
    rows = rows_of_sequence(0, len(text.ids))
    rows = dataclasses.replace(rows, outputs=np.arange(len(text.ids)) >= text.prompt_length)
    context.decode_embeddings(rows, embeddings.rows(text.ids))
    answer = context.logits(len(text.ids) - text.prompt_length).copy()
    if len(prefix):
        context.decode_embeddings(rows_of_sequence(0, len(prefix), sequence=spare), prefix)
    groups = []
    for start in range(0, len(anchors), spare - 1):
        some = anchors[start : start + spare - 1]
        for sequence, anchor in enumerate(some, 1):
            context.copy(0, sequence, 0, anchor + 1)
            if len(prefix):
                context.copy(spare, sequence, 0)
        rows = Rows(
            positions=np.concatenate([anchor + 1 + np.arange(count, dtype=np.int32) for anchor in some]),
            sequence_offsets=np.arange(len(some) * count + 1, dtype=np.int32),
            sequence_ids=np.repeat(np.arange(1, len(some) + 1, dtype=np.int32), count),
            outputs=np.ones(len(some) * count, np.bool_),
        )
        context.decode_embeddings(rows, np.tile(lookahead, (len(some), 1)))
        groups.append(context.logits(len(some) * count).copy())
        for sequence in range(1, len(some) + 1):
            context.remove(sequence, 0)
    return answer, np.concatenate(groups).reshape(len(anchors), count, -1)


@torch.no_grad()
def in_torch(
    frozen: FrozenModel, text: Text, anchors: Sequence[int], lookahead: Floats, prefix: Floats
) -> tuple[Floats, Floats]:
    reading = frozen.read(text.ids)
    rows = torch.from_numpy(lookahead), torch.from_numpy(prefix)
    groups = frozen.look_ahead(reading, torch.tensor(anchors), *rows)
    return frozen.logits(reading.hidden[text.prompt_length :]).numpy(), frozen.logits(groups).numpy()


@pytest.mark.parametrize("n_prefix", [0, 5])
@pytest.mark.parametrize("n_head_kv", [4, 2])
def test_torch_gives_the_logits_of_llama_cpp(n_prefix: int, n_head_kv: int, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", n_vocab=40, n_head_kv=n_head_kv, seed=1)
    rng = np.random.default_rng(2)
    text = Text(rng.integers(0, 40, size=30, dtype=np.int32), 6)
    anchors = [5, 6, 11, 20, 21, 28]
    lookahead, prefix = rng.standard_normal((2, 5, 256), dtype=np.float32)
    lookahead, prefix = lookahead[:3], prefix[:n_prefix]
    settings = ContextSettings(
        cells=256, sequences=8, cache_type_k="f32", cache_type_v="f32", flash_attention=False
    )
    with Model(path) as model, Context(model, settings) as context:
        expected = in_llama_cpp(context, text, anchors, lookahead, prefix)
    found = in_torch(FrozenModel(path, dtype=torch.float32), text, anchors, lookahead, prefix)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.slow
def test_torch_accepts_what_llama_cpp_accepts(quantized: Callable[[str], Path]) -> None:
    path = quantized("Q4_0")
    prompts = [
        f"<|im_start|>user\n{question[:600]}<|im_end|>\n<|im_start|>assistant\n"
        for question in spread_questions(8)
    ]
    assert_accepts_alike(path, read_shipped(path), prompts, tokens=120)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [0, 8])
def test_torch_accepts_what_llama_cpp_accepts_where_embeddings_are_scaled(
    prefix: int, gemma_path: Path
) -> None:
    """Gemma has windows that slide, too. Rows of common words are drafts of a kind."""
    with Model(gemma_path) as model:
        words = model.vocabulary.tokenize(" the of", add_special=False)
    rows = TokenEmbeddings(gemma_path).rows(words)
    assert_accepts_alike(gemma_path, rows, spread_questions(8), tokens=80, prefix=prefix)


def assert_accepts_alike(
    path: Path, lookahead: Floats, prompts: Sequence[str], *, tokens: int, prefix: int = 0
) -> None:
    """Acceptance by depth differs by less than 0.01 between torch and llama.cpp, in answers of ``tokens``
    tokens. ``prefix``: how many rows, those of some tokens."""
    frozen = FrozenModel(path)
    before = TokenEmbeddings(path).rows(np.arange(300, 300 + prefix, dtype=np.int32))
    settings = ContextSettings(cells=2048, sequences=8, outputs=128)
    right = np.zeros((2, len(lookahead)))
    same_base, positions, anchors_seen = 0, 0, 0
    with Model(path) as model, Context(model, settings) as context:
        for prompt in prompts:
            text = generated(context, model.vocabulary.tokenize(prompt, parse_special=True), tokens)
            anchors = range(text.prompt_length - 1, len(text.ids) - len(lookahead))
            arguments = text, anchors, lookahead, before
            results = in_llama_cpp(context, *arguments), in_torch(frozen, *arguments)
            best = [[logits.argmax(-1) for logits in result] for result in results]
            same_base += int((best[0][0] == best[1][0]).sum())
            positions += len(best[0][0])
            drafted = np.array(anchors)[:, None] + 1 + np.arange(len(lookahead)) - text.prompt_length
            for which in range(2):
                right[which] += (best[which][1] == best[which][0][drafted]).sum(0)
            anchors_seen += len(anchors)
    assert same_base / positions > 0.95
    assert right.min() > 0, "nothing was accepted; the test shows nothing"
    assert np.abs(right[0] - right[1]).max() / anchors_seen < 0.01


def read_shipped(path: Path) -> Floats:
    found = find_lookahead(path, read_base(path))
    assert found
    return read_lookahead(found).embeddings


def generated(context: Context, prompt: npt.NDArray[np.int32], length: int) -> Text:
    context.clear()
    ids = prompt
    context.decode_tokens(rows_of_sequence(0, len(ids), outputs=1), ids)
    for _ in range(length):
        ids = np.append(ids, np.int32(context.logits(1)[0].argmax()))
        context.decode_tokens(rows_of_sequence(len(ids) - 1, 1, outputs=1), ids[-1:])
    return Text(ids, len(prompt))


# -- training -----------------------------------------------------------------------------------------


def test_training_beats_the_untrained(frozen: FrozenModel, texts: list[Text], tmp_path: Path) -> None:
    untrained = train(frozen, texts, tmp_path / "untrained", steps=1).measured[-1][1]
    trained = train(frozen, texts, tmp_path / "trained", steps=200)
    measured = trained.measured[-1][1]
    assert trained.embeddings.shape == (3, WIDTH)
    assert trained.prefix.shape == (2, WIDTH)
    assert trained.losses[-20:].mean() < 0.6 * trained.losses[:20].mean()
    assert np.mean(measured["lookahead"].top_1) > np.mean(untrained["lookahead"].top_1) + 0.15


class KilledError(Exception):
    pass


SAVED = {"steps": 110, "measure_every": 55}


@pytest.fixture(scope="module")
def whole(
    frozen: FrozenModel, texts: list[Text], tmp_path_factory: pytest.TempPathFactory
) -> TrainedLookahead:
    """What a run with SAVED gives that nothing interrupts."""
    return train(frozen, texts, tmp_path_factory.mktemp("whole"), **SAVED)


@pytest.mark.parametrize("moment", ["before the first save", "between saves", "while saving"])
def test_a_killed_run_goes_on_as_one(
    moment: str,
    whole: TrainedLookahead,
    frozen: FrozenModel,
    texts: list[Text],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def progress(step: int, *_: object) -> None:
        if (moment, step) in {("before the first save", 7), ("between saves", 73)}:
            raise KilledError

    def torn(state: object, file: object) -> None:
        file.write(b"half a file")  # type: ignore[attr-defined]
        raise KilledError

    if moment == "while saving":
        train_until_saved(frozen, texts, tmp_path)
        monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KilledError):
        train(frozen, texts, tmp_path, **SAVED, progress=progress)
    monkeypatch.undo()
    assert same(train(frozen, texts, tmp_path, **SAVED), whole)
    assert same(train(frozen, texts, tmp_path, **SAVED), whole)  # there is nothing left to do
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def train_until_saved(frozen: FrozenModel, texts: list[Text], folder: Path) -> None:
    def progress(step: int, *_: object) -> None:
        if (folder / STATE).exists():
            raise KilledError

    with pytest.raises(KilledError):
        train(frozen, texts, folder, **SAVED, progress=progress)


def same(one: TrainedLookahead, other: TrainedLookahead) -> bool:
    pairs = [(one.embeddings, other.embeddings), (one.prefix, other.prefix), (one.losses, other.losses)]
    return all(a.tobytes() == b.tobytes() for a, b in pairs) and one.measured == other.measured


def test_other_settings_do_not_go_on_with_a_run(
    frozen: FrozenModel, texts: list[Text], tmp_path: Path
) -> None:
    train(frozen, texts, tmp_path, steps=1)
    with pytest.raises(SettingsError, match="other settings or texts"):
        train(frozen, texts, tmp_path, steps=2)
    with pytest.raises(SettingsError, match="other settings or texts"):
        train(frozen, texts[1:], tmp_path, steps=1)


def test_what_cannot_be_trained_on_is_said_in_words(
    frozen: FrozenModel, texts: list[Text], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="no answers of more than 64 tokens"):
        train(frozen, texts, tmp_path, count=64)
    with pytest.raises(SettingsError, match=r"\(2, 64\), not \(3, 64\)"):
        train(frozen, texts, tmp_path, start=np.zeros((2, WIDTH), np.float32))
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a GGUF file"):
        FrozenModel(tmp_path / "x.gguf")
