"""Chat templates that are given: by llama.cpp's names, as text, in a file; and wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Llama, ModelError, Settings, SettingsError
from pass_edge.native.default_templates import KNOWN_TEMPLATES
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.chat_requests import GO, MESSAGES
from tests.support.command_line import assert_refused, run
from tests.support.http_requests import get, post
from tests.support.reciting_model import write_reciting_model
from tests.support.serving import serving

OURS = "{% for message in messages %}<{{ message.content }}>{% endfor %}"


def opened(path: Path, template: str | None) -> Engine:
    return Engine(
        path, settings=Settings(threads=1, schedule="plain", context_size=256, chat_template=template)
    )


@pytest.mark.parametrize("name", [each.key for each in KNOWN_TEMPLATES])
def test_a_name_is_llama_cpps_and_ends_the_answer(name: str, tmp_path: Path) -> None:
    (known,) = (each for each in KNOWN_TEMPLATES if each.key == name)
    pieces = ("\n", "Hi", " there", known.end[:3], known.end[3:])
    path = write_reciting_model(tmp_path / "m.gguf", pieces, endless=True)
    with opened(path, name) as engine:
        assert known.end in engine.prompt_text(MESSAGES)
        assert engine.notes == []
        assert engine.stream("\n", stop=engine.chat_stop, max_tokens=20).run().text == "Hi there"


def test_text_replaces_the_models_own(speaking_path: Path) -> None:
    with opened(speaking_path, OURS) as engine:
        assert engine.prompt_text(MESSAGES) == "<yes the>"
        assert engine.chat_stop == ()
        with serving(engine) as server:
            body = {"messages": MESSAGES}
            assert post(server, "/apply-template", body)[1]["prompt"] == "<yes the>"
            assert OURS.encode()[:20] in get(server, "/props")[1]
            assert post(server, "/v1/chat/completions", {**body, "tools": [GO], "max_tokens": 2})[0] == 400
    with Llama(speaking_path, settings=Settings(threads=1, chat_template=OURS)) as llm:
        answer = llm.create_chat_completion(MESSAGES, max_tokens=3, seed=1, temperature=0.8)
        plain = llm.create_completion("<yes the>", max_tokens=3, seed=1, temperature=0.8)
        assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]


def test_commands_take_a_name_a_text_or_a_file(speaking_path: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes(b"\xef\xbb\xbf" + OURS.encode())
    command = ["generate", "yes the", "-m", str(speaking_path), "-n", "4", "--seed", "1", "-t", "1"]
    expected = run(*command[:1], "<yes the>", "--raw", *command[2:]).stdout
    assert run(*command, "--chat-template", OURS).stdout == expected
    assert run(*command, "--chat-template-file", tmp_path / "t.jinja").stdout == expected
    assert run(*command, "--chat-template", "chatml").stdout not in ("", expected)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("chatlm", ["unknown chat template 'chatlm'", "chatml, llama3", "Jinja"]),
        ("", ["unknown chat template ''"]),
        ("a\n{% for %}", ["wrong in line 2"]),
        ("{{ x | dance }}", ["wrong in line 1", "dance"]),
        ("{% if", ["wrong in line 1"]),
    ],
)
def test_a_wrong_one_is_refused_before_the_model_is_read(
    template: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        Engine(tmp_path / "missing.gguf", settings=Settings(chat_template=template))
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(speaking_path: Path, tmp_path: Path) -> None:
    command = ["generate", "x", "-m", str(speaking_path)]
    (tmp_path / "latin").write_bytes(b"{{ \xe9 }}")
    for name, word in (("missing", "cannot be read"), ("latin", "is not UTF-8"), (".", "cannot be read")):
        assert_refused(run(*command, "--chat-template-file", tmp_path / name), word)
    assert_refused(run(*command, "--chat-template-file", "a", "--chat-template", "b"), "exclude each other")


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content.a.b }}", "no attribute 'a'"),
        ("{{ raise_exception('only one') }}", "only one"),
        ("{{ messages | sum }}", "refuses"),
        ("{{ 'x' % (1, 2) }}{{ {}['a'].b }}", "refuses"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_fails_is_a_sentence(template: str, word: str, speaking_path: Path) -> None:
    with opened(speaking_path, template) as engine, pytest.raises(ModelError, match=word):
        engine.chat(MESSAGES)


def test_a_model_whose_own_one_is_wrong_says_what_to_do(tmp_path: Path) -> None:
    options: dict[str, Any] = {"n_embd": 64, "n_head": 2, "n_ff": 128, "words": ["yes"]}
    path = write_tiny_model(tmp_path / "m.gguf", chat_template="{% for %}", **options)
    with opened(path, None) as engine, serving(engine) as server:
        status, content, _ = post(server, "/v1/chat/completions", {"messages": MESSAGES})
        assert (status, content["error"]["type"]) == (400, "invalid_request_error")
        assert "wrong in line 1" in content["error"]["message"]
        assert "--chat-template-file" in content["error"]["message"]
    with opened(path, "chatml") as engine:
        assert engine.prompt_text(MESSAGES).startswith("<|im_start|>")
