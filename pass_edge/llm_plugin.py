"""A plugin for the command line tool ``llm``: ``llm -m pass-edge`` runs the default model.

PASS_EDGE_MODELS names more model files, or folders of them, separated as in PATH; each is ``pass-edge/STEM``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import llm
from llm.parts import TextPart

from pass_edge.sampling.sampler import Sampling

from .engine import Engine
from .models import default_model
from .models.local_stores import named_by_user


class PassEdge(llm.Model):
    """A GGUF file, which is opened with the first prompt."""

    can_stream = True

    class Options(llm.Options):
        """Options of ``Sampling`` and ``Engine.stream``, with their defaults."""

        temperature: float | None = None
        top_p: float | None = None
        seed: int | None = None
        max_tokens: int | None = None

    def __init__(self, model_id: str, path: Callable[[], Path]) -> None:
        """``path`` returns the file's path; it is called with the first prompt."""
        self.model_id, self._path = model_id, path

    @cached_property
    def engine(self) -> Engine:
        """The engine, open until the process ends."""
        return Engine(self._path())

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """Yield the answer while it is generated; ``llm`` joins it if ``stream`` is false."""
        options = prompt.options.model_dump(exclude_none=True)
        max_tokens = options.pop("max_tokens", None)
        messages = [{"role": message.role, "content": _text(message)} for message in prompt.messages]
        generation = self.engine.chat(messages, sampling=Sampling(**options), max_tokens=max_tokens)
        yield from generation
        response.set_usage(input=generation.stats.prompt_tokens, output=len(generation.ids))


def _text(message: llm.Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


@llm.hookimpl
def register_models(register: Callable[[llm.Model], None]) -> None:
    """Register the models; called by ``llm``."""
    register(PassEdge("pass-edge", default_model))
    for model in named_by_user():
        register(PassEdge(f"pass-edge/{model.name}", partial(Path, model.path)))
