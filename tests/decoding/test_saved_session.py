"""A saved session goes on as if it had never been away; a damaged file, or another model's, is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pass_edge import ContextError, ContextFullError, Engine, OutputError, Sampling, SessionError, Settings
from pass_edge.decoding.saved_session import SavedCache, SavedSession, identity, read_session, write_session
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.sampling.sampler import Sampler

PROMPT = [1, 2, 3, 4, 5] * 8
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "日本語 🦙\n\ud800"})
GREEDY = Sampler(Sampling(temperature=0))
SAMPLING = Sampling(temperature=0.7, seed=11, logit_bias={3: -np.inf, 4: 0.5})


@pytest.fixture(scope="module")
def engine(tiny_path: Path) -> Iterator[Engine]:
    with Engine(tiny_path) as engine:
        yield engine


@pytest.fixture
def saved(engine: Engine, tmp_path: Path) -> Path:
    """A session with its cache, after 20 tokens of an answer."""
    engine.session.forget()
    engine.stream(PROMPT, sampling=SAMPLING, max_tokens=20).run()
    path = tmp_path / "a.session"
    engine.session.save(path, messages=MESSAGES, sampling=SAMPLING, kv=True)
    return path


def go_on(engine: Engine, tokens: list[int], count: int = 60) -> tuple[list[int], int]:
    """The next ids after ``tokens``, and how many of these were not decoded again."""
    generation = engine.stream(tokens, sampling=SAMPLING, max_tokens=count).run()
    return generation.ids, generation.stats.reused_tokens


@pytest.mark.parametrize("kv", [True, False])
def test_a_saved_session_goes_on_as_if_it_had_never_been_away(
    kv: bool, engine: Engine, tiny_path: Path, tmp_path: Path
) -> None:
    engine.session.forget()
    engine.stream(PROMPT, sampling=SAMPLING, max_tokens=20).run()
    engine.session.save(tmp_path / "s", messages=MESSAGES, sampling=SAMPLING, kv=kv)
    tokens = [*engine.session.tokens, engine.session.root]
    expected = go_on(engine, tokens)
    with Engine(tiny_path) as another:
        loaded = another.session.load(tmp_path / "s")
        assert (loaded.messages, loaded.sampling, list(loaded.tokens)) == (MESSAGES, SAMPLING, tokens)
        assert (loaded.cache is not None) == kv
        assert [*another.session.tokens, another.session.root] == tokens
        assert go_on(another, tokens) == expected
    assert expected[1] == len(tokens) - 1


def test_a_chat_with_the_default_model_goes_on_to_the_same_text(model_path: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Name three rivers."}]
    options = {"sampling": Sampling(seed=5), "max_tokens": 24}
    with Engine(model_path) as engine:
        first = engine.chat(messages, **options).run()
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And lakes?"}]
        engine.session.save(tmp_path / "s", messages=messages, sampling=options["sampling"], kv=True)
        expected = engine.chat(messages, **options).run()
    with Engine(model_path) as another:
        saved = another.session.load(tmp_path / "s")
        again = another.chat(saved.messages, sampling=saved.sampling, max_tokens=24).run()
    assert saved.cache is not None
    assert again.ids == expected.ids
    assert again.stats.reused_tokens == expected.stats.reused_tokens > 24


def test_a_restored_cache_has_the_bits_that_were_saved(engine: Engine, saved: Path) -> None:
    before = read_session(saved).cache
    engine.session.forget()
    engine.session.load(saved)
    again = saved.with_name("again")
    engine.session.save(again, kv=True)
    assert before is not None
    assert read_session(again).cache == before


def test_a_cache_is_restored_not_computed(engine: Engine, saved: Path) -> None:
    # a cache that belongs to other tokens must show: else the test above could pass by reading them again
    whole = read_session(saved)
    swapped = tuple(11 - token for token in whole.tokens)
    write_session(SavedSession(whole.model, swapped, cache=whole.cache), saved)
    engine.session.load(saved)
    by_cache = engine.session.step(GREEDY).tokens
    engine.session.forget()
    engine.session.prefill(swapped)
    assert engine.session.step(GREEDY).tokens != by_cache


def test_a_session_that_was_rolled_back_can_be_saved(engine: Engine, saved: Path) -> None:
    engine.session.rollback_to(30)
    engine.session.save(saved, kv=True)
    assert engine.session.load(saved).cache is not None
    assert [*engine.session.tokens, engine.session.root] == PROMPT[:30]


def test_an_empty_session_can_be_saved(engine: Engine, saved: Path) -> None:
    engine.session.forget()
    engine.session.save(saved, kv=True)
    engine.session.prefill(PROMPT)
    assert engine.session.load(saved).tokens == ()
    assert (engine.session.tokens, engine.session.root) == ([], None)


def test_another_cache_type_reads_the_tokens_again(tiny_path: Path, saved: Path) -> None:
    with Engine(tiny_path, settings=Settings(cache_type_k="f16")) as other:
        loaded = other.session.load(saved)
        assert loaded.cache is None
        assert [*other.session.tokens, other.session.root] == list(loaded.tokens)


# -- refused ------------------------------------------------------------------------------------------


def test_any_changed_byte_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    header = whole.index(b"\n", whole.index(b"\n", whole.index(b"\n") + 1) + 1)
    for place in {*range(200), *rng.integers(200, header, 200), *rng.integers(header, len(whole), 200)}:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        with pytest.raises(SessionError, match=r"damaged|no saved session|version"):
            read_session(saved)


def test_a_file_cut_off_anywhere_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(0, 400, 7), *range(400, len(whole), len(whole) // 50)]:
        saved.write_bytes(whole[:length])
        with pytest.raises(SessionError):
            read_session(saved)
    saved.write_bytes(whole + b"x")
    with pytest.raises(SessionError, match="damaged"):
        read_session(saved)


def test_what_is_no_session_is_said_to_be_none(tmp_path: Path, tiny_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path, words in (
        (tmp_path / "text", "no saved session"),
        (tiny_path, "no saved session"),
        (Path("/dev/zero"), "no saved session"),
        (tmp_path, "cannot be read"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(SessionError, match=words):
            read_session(path)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": [1, -2]},
        {"tokens": [1, "2"]},
        {"tokens": 7},
        {"messages": [{"role": "user"}]},
        {"messages": [1]},
        {"messages": None},
        {"sampling": {"temperature": -1, "logit_bias": []}},
        {"sampling": {"heat": 1, "logit_bias": []}},
        {"sampling": {"logit_bias": [1]}},
        {"model": {}},
        {"model": "tiny"},
    ],
)
def test_a_header_that_cannot_be_is_refused(saved: Path, change: dict[str, object]) -> None:
    rewrite(saved, change)
    with pytest.raises(SessionError, match="damaged"):
        read_session(saved)


def rewrite(path: Path, change: dict[str, object]) -> None:
    """Change the header as a writer with other ideas would: the hash is right."""
    first, _, header, state = path.read_bytes().split(b"\n", 3)
    rest = json.dumps(json.loads(header) | change).encode() + b"\n" + state
    path.write_bytes(first + b"\n" + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


def test_another_models_session_names_both(engine: Engine, saved: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.gguf", n_vocab=12, n_embd=64, n_head=2, n_ff=128, seed=4)
    before = list(engine.session.tokens)
    with Engine(other) as another, pytest.raises(SessionError, match="other weights"):
        another.session.load(saved)
    rewrite(saved, {"model": {"name": "Another 7B", "weights_sha256": "0"}})
    with pytest.raises(SessionError, match="Another 7B, and this is tiny random model"):
        engine.session.load(saved)
    assert engine.session.tokens == before, "a refused file must leave the session as it was"


def test_a_fine_tuning_that_left_the_embeddings_is_another_model(tiny_path: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.gguf"
    content = bytearray(tiny_path.read_bytes())
    with GgufFile(tiny_path) as file:
        content[file.tensors["blk.1.ffn_down.weight"].offset] ^= 1
    tuned.write_bytes(content)
    assert identity(tuned) != identity(tiny_path)
    tuned.write_bytes(tiny_path.read_bytes().replace(b"tiny random model", b"tiny renamed one!"))
    with Engine(tuned) as renamed, Engine(tiny_path) as engine:
        renamed.session.save(tmp_path / "s")
        engine.session.load(tmp_path / "s")


def test_a_session_longer_than_the_context_says_both_lengths(tiny_path: Path, saved: Path) -> None:
    with (
        Engine(tiny_path, settings=Settings(context_size=32)) as small,
        pytest.raises(ContextFullError, match=r"\d+ tokens and the context holds 32"),
    ):
        small.session.load(saved)


def test_a_token_outside_the_vocabulary_is_refused(engine: Engine, saved: Path) -> None:
    rewrite(saved, {"tokens": [1, 2, 12]})
    with pytest.raises(SessionError, match="vocabulary of 12"):
        engine.session.load(saved)


def test_a_cache_that_llama_cpp_refuses_leaves_an_empty_session(engine: Engine, saved: Path) -> None:
    whole = read_session(saved)
    assert whole.cache
    short = SavedCache(whole.cache.layout, whole.cache.state[:-100])
    for session in (
        SavedSession(whole.model, whole.tokens, cache=short),
        SavedSession(whole.model, whole.tokens[:-5], cache=whole.cache),
    ):
        write_session(session, saved)
        with pytest.raises(ContextError):
            engine.session.load(saved)
        assert (engine.session.tokens, engine.session.root) == ([], None)
    engine.session.prefill(PROMPT)
    engine.session.step(GREEDY)


def test_a_file_that_is_no_session_is_never_overwritten(engine: Engine, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no saved session"):
        engine.session.save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    engine.session.save(saved)  # an older session is


def test_a_save_that_fails_leaves_the_older_one(
    engine: Engine, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        engine.session.save(saved, kv=True)
    assert saved.read_bytes() == whole
    assert os.listdir(saved.parent) == [saved.name]
