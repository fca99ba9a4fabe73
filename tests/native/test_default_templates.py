"""A model without a chat template gets the one its tokens were made for, and is told of it; answers end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge import Engine, Settings
from pass_edge.native.chat_template import known_template, render
from pass_edge.native.default_templates import has_tokens
from pass_edge.native.model import Model
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest
from tests.support.reciting_model import TEMPLATE, write_reciting_model

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Go"},
]
PROMPTS = {
    (
        "<|im_start|>",
        "<|im_end|>",
    ): "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n",
    (
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ): "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nGo<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    (
        "<start_of_turn>",
        "<end_of_turn>",
    ): "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
    "<start_of_turn>user\nGo<end_of_turn>\n<start_of_turn>model\n",
    (
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
    ): "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYes?<|end|>\n<|user|>\nGo<|end|>\n"
    "<|assistant|>\n",
    ("[INST]", "[/INST]"): "[INST]Be brief.\n\nHi[/INST]Yes?</s>[INST]Go[/INST]",
}


def write_model(path: Path, controls: tuple[str, ...], template: str | None = None) -> Path:
    return write_tiny_model(
        path, n_embd=64, n_head=2, n_ff=128, words=["a"], controls=controls, chat_template=template
    )


@pytest.mark.parametrize(("controls", "prompt"), PROMPTS.items(), ids=[marks[0] for marks in PROMPTS])
def test_the_tokens_show_the_template(controls: tuple[str, ...], prompt: str, tmp_path: Path) -> None:
    with Model(write_model(tmp_path / "m.gguf", controls)) as model:
        assert render(model, MESSAGES) == prompt
        template = known_template(model)
        assert template is not None
        assert has_tokens(model.vocabulary, template)
        assert template.end in controls


def test_without_known_tokens_it_is_chatml(tmp_path: Path) -> None:
    with Model(write_model(tmp_path / "m.gguf", ("<|im_start|>", "<eot>"))) as model:
        assert render(model, MESSAGES) == next(iter(PROMPTS.values()))


@pytest.mark.parametrize(
    ("controls", "template", "words"),
    [
        (("<|im_start|>", "<|im_end|>"), None, ["no chat template", "ChatML", "its tokens were made for"]),
        (("<start_of_turn>", "<end_of_turn>"), None, ["no chat template", "Gemma", "made for"]),
        ((), None, ["no chat template", "ChatML", "may not know", "--raw"]),
        ((), TEMPLATE, []),
    ],
)
def test_an_engine_says_so_once(
    controls: tuple[str, ...], template: str | None, words: list[str], tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.gguf", controls, template)
    with Engine(path, settings=Settings(threads=1, schedule="plain", context_size=64)) as engine:
        notes = [note for note in engine.notes if "chat template" in note]
    assert len(notes) == bool(words)
    for word in words:
        assert word in notes[0]


def test_an_answer_ends_where_the_mark_is_no_token(tmp_path: Path) -> None:
    """Such a model writes the mark of ChatML as it read it, in pieces, and would go on for ever."""
    pieces = ("\n", "Hi", " there", "<|im_", "end|>")
    path = write_reciting_model(tmp_path / "m.gguf", pieces, endless=True, template=None)
    with Engine(path, settings=Settings(threads=1, context_size=200)) as engine:
        generation = engine.chat([{"role": "user", "content": "Go"}], stop=("never",)).run()
        assert (generation.text, generation.finish_reason) == ("Hi there", "stop")
        answer = complete(engine, ChatCompletionRequest([{"role": "user", "content": "Go"}], temperature=0.0))
        choice = answer["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hi there", "stop")
