"""Models for the command line tool ``llm``: ``llm -m pass-edge`` is the default model, and PASS_EDGE_MODELS,
paths as in PATH, names further ones, ``pass-edge/STEM`` each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import llm
from llm.parts import TextPart

from pass_edge.sampling.sampler import Sampling

from .engine import Engine
from .models import default_model


class PassEdge(llm.Model):
    """A GGUF file, opened when it is first asked."""

    can_stream = True

    class Options(llm.Options):
        """As in ``Sampling`` and ``Engine.stream``; what is not given has their defaults."""

        temperature: float | None = None
        top_p: float | None = None
        seed: int | None = None
        max_tokens: int | None = None

    def __init__(self, model_id: str, path: Callable[[], Path]) -> None:
        """``path`` tells the file once it is needed."""
        self.model_id, self._path = model_id, path

    @cached_property
    def engine(self) -> Engine:
        """Lasts as long as the process."""
        return Engine(self._path())

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """The answer as it comes; ``llm`` joins it where it does not stream."""
        options = prompt.options.model_dump(exclude_none=True)
        max_tokens = options.pop("max_tokens", None)
        messages = [{"role": message.role, "content": _text(message)} for message in prompt.messages]
        answer = self.engine.chat(messages, sampling=Sampling(**options), max_tokens=max_tokens)
        yield from answer
        response.set_usage(input=answer.stats.prompt_tokens, output=len(answer.ids))


def _text(message: llm.Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


@llm.hookimpl
def register_models(register: Callable[[llm.Model], None]) -> None:
    """Called by ``llm``."""
    register(PassEdge("pass-edge", default_model))
    for path in filter(None, os.environ.get("PASS_EDGE_MODELS", "").split(os.pathsep)):
        register(PassEdge(f"pass-edge/{Path(path).stem}", partial(Path, path)))
