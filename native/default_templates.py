"""Known chat templates, by name, and for models that have none: their tokens show which one they know."""

from __future__ import annotations

from dataclasses import dataclass

from .vocabulary import Vocabulary


@dataclass(frozen=True)
class KnownTemplate:
    """``name``; ``key``: llama.cpp's name of it; ``marks``: texts that are tokens of a vocabulary made for
    it; ``source``: Jinja; ``end``: the text after an answer."""

    name: str
    key: str
    marks: tuple[str, ...]
    source: str
    end: str


# These formats have no system message of their own: it goes before the first question.
_SYSTEM_FIRST = (
    "{% set start = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' %}"
    "{% set messages = messages[1:] if messages[0]['role'] == 'system' else messages %}"
)
_CHATML = KnownTemplate(
    "ChatML",
    "chatml",
    ("<|im_start|>", "<|im_end|>"),
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "<|im_end|>",
)
CHATML = _CHATML.source
KNOWN_TEMPLATES = (
    _CHATML,
    KnownTemplate(
        "Llama 3's format",
        "llama3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "{% for message in messages %}{{'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'}}"
        "{{ message['content'] + '<|eot_id|>'}}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "<|eot_id|>",
    ),
    KnownTemplate(
        "Gemma's format",
        "gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        _SYSTEM_FIRST + "{% for message in messages %}"
        "{{'<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + "
        "(start if loop.first else '') + message['content'] + '<end_of_turn>\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "<end_of_turn>",
    ),
    KnownTemplate(
        "Phi 3's format",
        "phi3",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        "{% for message in messages %}{{'<|' + message['role'] + '|>\\n'}}"
        "{{ message['content'] + '<|end|>\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
        "<|end|>",
    ),
    KnownTemplate(
        "Mistral's format",
        "mistral-v3-tekken",
        ("[INST]", "[/INST]"),
        _SYSTEM_FIRST + "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ message['content'] + eos_token }}{% else %}"
        "{{'[INST]' + (start if loop.first else '') + message['content'] + '[/INST]'}}"
        "{% endif %}{% endfor %}",
        "[INST]",
    ),
)


def default_template(vocabulary: Vocabulary) -> KnownTemplate:
    """Return the template whose marks are tokens of ``vocabulary``; if there is none, ChatML, as in
    llama.cpp. Raises ModelError if the model has no tokenizer."""
    return next((each for each in KNOWN_TEMPLATES if has_tokens(vocabulary, each)), _CHATML)


def has_tokens(vocabulary: Vocabulary, template: KnownTemplate) -> bool:
    """Return whether each mark of ``template`` is one token."""
    return all(len(vocabulary.tokenize(mark, parse_special=True)) == 1 for mark in template.marks)


def warning(vocabulary: Vocabulary, template: KnownTemplate) -> str:
    """Return what a user should know of a model that gets ``template`` because it has none of its own."""
    if has_tokens(vocabulary, template):
        return (
            f"this model has no chat template; chats are in {template.name}, which its tokens were made for"
        )
    return (
        f"this model has no chat template, and no tokens of a known one, so chats are in {template.name}, "
        "which it may not know; a base model had better continue a text (generate --raw)"
    )
