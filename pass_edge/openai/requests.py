"""Requests with llama-cpp-python's names, order and defaults.

What this engine cannot do raises SettingsError instead of being passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pass_edge.native.chat_template import has_tools
from pass_edge.native.constraint import schema_grammar
from pass_edge.native.errors import SettingsError
from pass_edge.sampling.sampler import Sampling

from .answers import Answer
from .formatters import ChatFormatter, TextFormatter
from .messages import plain_messages
from .tools import call_grammar, tool_names

if TYPE_CHECKING:
    from pass_edge.engine import Engine

Prompt = str | Sequence[int]
# llama-cpp-python's parameters that would change the text in ways this engine does not have, and where they
# do not
_UNSUPPORTED = {
    "suffix": (None,),
    "typical_p": (1.0,),
    "tfs_z": (1.0,),
    "mirostat_mode": (0,),
    "stopping_criteria": (None,),
    "logits_processor": (None,),
    "functions": (None,),
    "function_call": (None,),
}
_MOST_CHOICES = 128
RANDOM_SEED = -1
"""What llama.cpp's users write for a seed that is drawn."""


@dataclass(frozen=True)
class CompletionRequest:
    """``create_completion``'s parameters. Beyond llama-cpp-python's: several prompts in ``prompt``, ``n``
    choices for each, and OpenAI's ``stream_options``. ``grammar`` is GBNF, or a LlamaGrammar;
    ``max_tokens`` None or 0 is as many as fit; ``seed`` of choice i is ``seed`` + i, and -1 draws one."""

    prompt: Prompt | Sequence[str] | Sequence[Sequence[int]]
    suffix: str | None = None
    max_tokens: int | None = 16
    temperature: float = 0.8
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    logprobs: int | None = None
    echo: bool = False
    stop: str | Sequence[str] | None = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    top_k: int = 40
    stream: bool = False
    seed: int | None = None
    tfs_z: float = 1.0
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    model: str | None = None
    stopping_criteria: object = None
    logits_processor: object = None
    grammar: object = None
    logit_bias: Mapping[int, float] | None = None
    n: int = 1
    stream_options: Mapping[str, Any] | None = None

    def answer(self, engine: Engine) -> Answer:
        """What ``engine`` will say. Raises SettingsError, ContextFullError."""
        _refuse_unsupported(self)
        prompts = _prompts(self.prompt)
        only = prompts[0] if len(prompts) == 1 and isinstance(prompts[0], str) else ""
        if self.echo and (not only or self.logprobs is not None):
            raise SettingsError("echo works for one prompt that is text, and without logprobs")
        shape = TextFormatter(_name(self, engine), engine.model.vocabulary, before=only, echo=self.echo)
        ids = [_ids(engine, each) for each in prompts]
        return _answer(engine, self, ids, _grammar_text(self.grammar), self.logprobs, shape)


@dataclass(frozen=True)
class ChatCompletionRequest:
    """``create_chat_completion``'s parameters, and ``n`` and ``stream_options`` as in CompletionRequest.

    ``response_format``: ``{"type": "json_object"}`` (with a ``schema``, if there is one), or OpenAI's
    ``json_schema``. ``tool_choice``: "none", "auto" (where the model's template has tools), "required", or
    a tool.
    """

    messages: Sequence[Mapping[str, Any]]
    functions: object = None
    function_call: object = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    typical_p: float = 1.0
    stream: bool = False
    stop: str | Sequence[str] | None = ()
    seed: int | None = None
    response_format: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    tfs_z: float = 1.0
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    model: str | None = None
    logits_processor: object = None
    grammar: object = None
    logit_bias: Mapping[int, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int = 1
    stream_options: Mapping[str, Any] | None = None

    def answer(self, engine: Engine) -> Answer:
        """What ``engine`` will say. Raises SettingsError, ContextFullError, ModelError (the model's template
        refuses the messages)."""
        _refuse_unsupported(self)
        tools = list(self.tools or ()) if self.tool_choice != "none" else []
        names, calls = tool_names(tools), self._forced_call(tools)
        if tools and not calls and not has_tools(engine.model):
            raise SettingsError(
                "this model's chat template has no tools, so it cannot choose one; "
                'force a call with tool_choice ("required", or a tool)'
            )
        grammars = [
            text for text in (_grammar_text(self.grammar), _format(self.response_format), calls) if text
        ]
        if len(grammars) > 1:
            raise SettingsError("grammar, response_format and a forced tool exclude each other; give one")
        prompt = engine.render(plain_messages(self.messages), tools=tools, tool_choice=self.tool_choice)
        shape = ChatFormatter(_name(self, engine), engine.model.vocabulary, names)
        alternatives = (self.top_logprobs or 0) if self.logprobs else None
        return _answer(engine, self, [prompt], "".join(grammars), alternatives, shape)

    def _forced_call(self, tools: Sequence[Mapping[str, Any]]) -> str:
        choice = self.tool_choice
        if choice in (None, "none", "auto"):
            return ""
        if not tools:
            raise SettingsError("a tool choice needs tools")
        if choice == "required":
            return call_grammar(tools, None)
        try:
            return call_grammar(tools, str(choice["function"]["name"]))  # type: ignore[index]
        except (KeyError, TypeError, IndexError):
            raise SettingsError(
                'a tool choice is none, auto, required, or {"function": {"name": …}}'
            ) from None


Request = CompletionRequest | ChatCompletionRequest


def _answer(
    engine: Engine,
    request: Request,
    prompts: Sequence[Sequence[int]],
    grammar: str,
    logprobs: int | None,
    shape: TextFormatter | ChatFormatter,
) -> Answer:
    if not 1 <= request.n <= _MOST_CHOICES:
        raise SettingsError(f"n is {request.n}; it must be from 1 to {_MOST_CHOICES}")
    generations = [
        engine.stream(
            prompt,
            sampling=_sampling(request, grammar, choice),
            max_tokens=request.max_tokens if request.max_tokens and request.max_tokens > 0 else None,
            stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
            logprobs=logprobs,
        )
        for prompt in prompts
        for choice in range(request.n)
    ]
    tells_usage = bool((request.stream_options or {}).get("include_usage"))
    return Answer(generations, shape, n=request.n, tells_usage=tells_usage)


def _sampling(request: Request, grammar: str, choice: int) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_k=max(0, request.top_k),  # llama.cpp's -1 is off, too
        top_p=request.top_p,
        min_p=request.min_p,
        repeat_penalty=request.repeat_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias={int(token): float(bias) for token, bias in (request.logit_bias or {}).items()},
        seed=None if request.seed in (None, RANDOM_SEED) else request.seed + choice,
        grammar=grammar,
    )


def _refuse_unsupported(request: Request) -> None:
    for field in fields(request):
        allowed = _UNSUPPORTED.get(field.name)
        if allowed and getattr(request, field.name) not in allowed:
            hint = "; use tools and tool_choice" if field.name.startswith("function") else ""
            raise SettingsError(f"{field.name} is not supported{hint}")


def _prompts(prompt: Any) -> list[Prompt]:
    several = isinstance(prompt, Sequence) and not isinstance(prompt, str)
    if several and prompt and not all(isinstance(each, int) for each in prompt):
        return list(prompt)
    return [prompt]


def _ids(engine: Engine, prompt: Prompt) -> Sequence[int]:
    if not isinstance(prompt, str):
        return prompt
    bos = engine.model.vocabulary.bos
    return engine.tokenize(prompt) or [bos] * (bos >= 0)


def _name(request: Request, engine: Engine) -> str:
    return request.model or str(engine.model.path)


def _grammar_text(grammar: object) -> str:
    text = getattr(grammar, "_grammar", grammar)  # a LlamaGrammar keeps its GBNF there
    if text is None or isinstance(text, str):
        return text or ""
    raise SettingsError("a grammar is GBNF text, or a LlamaGrammar")


def _format(wanted: Mapping[str, Any] | None) -> str:
    kind = wanted.get("type") if wanted else "text"
    if wanted is None or kind == "text":
        return ""
    if kind == "json_object":
        return schema_grammar(wanted["schema"]) if "schema" in wanted else schema_grammar({"type": "object"})
    try:
        if kind == "json_schema":
            return schema_grammar(wanted["json_schema"]["schema"])
    except (KeyError, TypeError):
        raise SettingsError('a json_schema format has the schema in {"json_schema": {"schema": …}}') from None
    raise SettingsError(
        f"unknown response format {json.dumps(kind)}; known are text, json_object, json_schema"
    )
