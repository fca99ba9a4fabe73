"""Training text: prompts from files without held-out ones, and answers that resume after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine, Settings, SettingsError
from pass_edge.convert.training.prompts import encode_prompt, read_prompts, without_overlap
from pass_edge.convert.training.text import ANSWERS_AT_ONCE, make_texts, read_texts
from pass_edge.native.tiny_model import write_tiny_model

LONG = "one two three four five six seven eight nine ten eleven twelve"


# -- prompts ------------------------------------------------------------------------------------------


def test_prompts_are_read_from_lines_and_from_json_each_once(tmp_path: Path) -> None:
    text, objects = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("Why?\n\n  How?  \nWhy?\n{}\n")
    assert list(read_prompts(text)) == ["Why?", "How?", "{}"]
    lines: list[object] = ["Why?", {"prompt": "How?"}, {"turns": ["When?", "And then?"]}, "Why?"]
    objects.write_text("\n".join(map(json.dumps, lines)))
    assert list(read_prompts(str(objects))) == ["Why?", "How?", "When?"]


@pytest.mark.parametrize("line", ["not json", "3", "[]", '{"prompt": 3}', '{"turns": []}', "null"])
def test_a_line_that_is_not_a_prompt_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'"Why?"\n{line}\n')
    with pytest.raises(SettingsError, match=r"a\.jsonl, line 2: neither a string"):
        list(read_prompts(path))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.txt", tmp_path, tmp_path / "bytes.txt"):
        with pytest.raises(SettingsError, match=f"{path.name} cannot be read"):
            list(read_prompts(path))


def test_prompts_that_share_words_with_held_out_ones_are_left_out() -> None:
    held_out = [f"Tell me: {LONG}!", "Why?"]
    same = [f"{LONG.upper()}, and so on", "why", LONG.replace(" ", ", ")]
    other = [LONG.removesuffix(" twelve"), "Why not?", f"zero {LONG}".replace("six", "6")]
    overlapping: list[str] = []
    assert list(without_overlap([*same, *other], held_out, overlapping.append)) == other
    assert overlapping == same


# -- text ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("text") / "tiny.gguf"
    write_tiny_model(path, n_vocab=48, n_embd=64, n_head=2, n_ff=128, seed=5)
    with Engine(path, lookahead=None, settings=Settings(schedule="plain")) as engine:
        yield engine


PROMPTS = [" ".join(map(str, np.random.default_rng(i).integers(0, 48, 4 + i % 5))) for i in range(90)]
COUNT = ANSWERS_AT_ONCE + 16


def make(engine: Engine, folder: Path, **others: object) -> dict[str, bytes]:
    make_texts(engine, PROMPTS, folder, count=COUNT, max_tokens=12, max_prompt=16, **others)  # type: ignore[arg-type]
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("written", [1, 2, 3, 4])
def test_a_half_written_answer_is_made_again(written: int, engine: Engine, tmp_path: Path) -> None:
    """Killed while an answer is written: ``written`` of the files have a part of it."""
    whole = make(engine, tmp_path / "whole")
    folder = tmp_path / "killed"

    def killed(done: int, total: int) -> None:
        if done == ANSWERS_AT_ONCE + 3:
            raise KilledError

    with pytest.raises(KilledError):
        make(engine, folder, progress=killed)
    for name in ("logprobs.f16", "likely.i32", "hidden.f16", "text.i32")[:written]:
        done = (folder / name).stat().st_size
        assert 0 < done < len(whole[name])
        with (folder / name).open("ab") as file:
            file.write(whole[name][done : done + 101])  # a torn row, or a torn id
    assert len(read_texts(folder, engine.model.n_embd)) == ANSWERS_AT_ONCE + 3
    assert make(engine, folder) == whole
    assert make(engine, folder) == whole


def test_greedy_answers_are_the_most_likely_tokens(engine: Engine, tmp_path: Path) -> None:
    make(engine, tmp_path)
    greedy = read_texts(tmp_path, engine.model.n_embd)[::2]
    for answer in greedy[:8]:
        ids = answer.ids[answer.prompt_length :]
        assert len(ids) == len(answer.hidden) == len(answer.top_tokens) == len(answer.logprobs) == 12
        assert ids.tolist() == answer.top_tokens[:, 0].tolist()
        assert (np.diff(answer.logprobs.astype(np.float32)) <= 0).all()


def test_prompts_that_are_learned_from_begin_the_answers(engine: Engine, tmp_path: Path) -> None:
    prompts = [f"7 8 9 {' '.join(map(str, range(i, i + 3 * i + 1)))}" for i in range(1, 5)]
    made = {
        with_prompts: make_texts(
            engine,
            prompts,
            tmp_path / str(with_prompts),
            count=4,
            max_tokens=5,
            max_prompt=16,
            with_prompts=with_prompts,
        )
        for with_prompts in (False, True)
    }
    for answers, texts in zip(made[False], made[True], strict=True):
        assert answers.ids.tolist() == texts.ids.tolist()
        assert texts.prompt_length == 3  # all begin with 7 8 9
        assert len(texts.hidden) == len(texts.ids) - 3
        assert (texts.hidden[-5:] == answers.hidden).all()
        assert (texts.top_tokens[-5:] == answers.top_tokens).all()
        for i in range(3, answers.prompt_length):  # what predicts the tokens of the prompt
            logits = engine.logits_after(texts.ids[:i].tolist())
            assert texts.top_tokens[i - 3, 0] == logits.argmax()


def test_a_model_without_a_tokenizer_takes_ids(engine: Engine) -> None:
    assert encode_prompt(engine, "3 17  4") == [3, 17, 4]
    for bad in ("Why?", "3 48", "-1", "3 99999999999"):
        with pytest.raises(SettingsError, match="ids below 48"):
            encode_prompt(engine, bad)


def test_too_few_prompts_are_counted(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="3 prompts that can be used; 5 are asked for"):
        make_texts(engine, PROMPTS[:3], tmp_path, count=5, max_tokens=4, max_prompt=16)
