"""Rendering a model's own chat template with llama-cpp-python's Jinja formatter (sandboxed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from .errors import ModelError
from .model import Model

# what llama.cpp falls back to when a model brings no template
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n'}}{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)


def render(model: Model, messages: Sequence[Mapping[str, str]]) -> str:
    """``messages`` (each with ``role`` and ``content``) as the prompt for the next assistant turn.
    Raises ModelError if the template refuses them."""
    vocabulary = model.vocabulary
    formatter = Jinja2ChatFormatter(
        template=model.chat_template() or CHATML,
        eos_token=_text(model, vocabulary.eos),
        bos_token=_text(model, vocabulary.bos),
    )
    try:
        return formatter(messages=list(messages)).prompt
    except (ValueError, TypeError, jinja2.TemplateError) as error:
        raise ModelError(
            f"the chat template of {model.path.name} refuses this conversation: {error}"
        ) from error


def _text(model: Model, token: int) -> str:
    return model.vocabulary.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
