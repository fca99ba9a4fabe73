"""The engine: a model, its lookahead and a context, and text streamed out of them.

>>> engine = Engine("model.gguf")
>>> for text in engine.stream("Once upon a time"):
...     print(text, end="")
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass_edge.calibration.measurement_cache import take_problem
from pass_edge.decoding.saved_session import SavedSession
from pass_edge.decoding.session import Step
from pass_edge.decoding.slots import SlotPool
from pass_edge.drafting.lookahead import Lookahead
from pass_edge.models import ModelFile, find_model
from pass_edge.native import chat_template
from pass_edge.native.context import Floats
from pass_edge.native.errors import ContextFullError, SettingsError
from pass_edge.native.vocabulary import Text, as_bytes
from pass_edge.sampling.constrained import sampler_for
from pass_edge.sampling.minimum import MinimumSampler
from pass_edge.sampling.processed import UNDRAFTED, LogitsProcessor, processed
from pass_edge.sampling.sampler import Sampler, Sampling
from pass_edge.sampling.thinking_budget import BudgetedSampler

from .engine_setup.draft_sources import open_draft_sources
from .engine_setup.loaded_model import Setup, load_model
from .engine_setup.schedule_choice import choose_schedule, recurrent_bytes
from .engine_setup.sessions import open_batcher, open_sessions
from .generation import Generation, StoppingCriterion
from .line_limit import LineLimit
from .settings import AUTO, Settings
from .text_stream import stop_strings
from .thinking import Thinking, behind_thinking, closed_thinking, thinking_of


class Engine:
    """A model ready to generate. Close it, or use it as a context manager.

    Its methods may be called from any thread. ``settings.parallel`` generations run side by side and share
    forward passes; further ones wait until one of these has ended or been dropped. ``sessions`` are not
    thread-safe by themselves. After a fork only the parent can use it.

    Attributes: ``name``, as the user typed it, or the file's; ``model``; ``base``, the identity that its file
    states; ``settings``; ``lookahead`` (None: nothing trained drafts); ``schedule``, the one in force;
    ``calibration``; ``notes``: what a user should know, such as why nothing is drafted; ``sessions``, and
    ``session``, the first of them; ``parallel``; ``context_size`` in tokens of each; ``costs`` of passes on
    this machine, None unless the schedule is auto; ``draft_model``, None without one; ``recurrent_bytes``:
    the size of the recurrent memory, 0 without one.
    """

    def __init__(
        self,
        model: str | Path | ModelFile,
        *,
        lookahead: str | Path | Lookahead | None = AUTO,
        settings: Settings | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Load ``model``: the path of a GGUF file, or a name such as ``USER/REPO:Q4_K_M`` (of Hugging Face's
        hub, which is asked only for what is not on this disk) or ``ollama:NAME``. ``lookahead``: a sidecar
        file, "auto" (the one that belongs to the model), or None. ``note`` is called with a sentence about
        work that takes time. Raises subclasses of PassEdgeError."""
        found = find_model(model, note=note)
        self.notes: list[str] = []
        with ExitStack() as opened:
            setup = Setup(opened, note, self.notes)
            loaded = load_model(found, lookahead, settings or Settings(), setup)
            choice = choose_schedule(loaded, setup)
            batcher = open_batcher(loaded, choice, setup)
            sources = open_draft_sources(loaded, choice, batcher, setup)
            self.sessions = open_sessions(loaded, batcher, sources.make_schedule)
            if problem := take_problem():
                self.notes.append(problem)
            self._opened = opened.pop_all()
        self.name = found.name
        self.settings, self.model, self.base = loaded.settings, loaded.model, loaded.base
        self.lookahead, self.calibration = loaded.lookahead, loaded.calibration
        self.parallel, self.context_size = loaded.settings.parallel, loaded.context_size
        self.schedule, self.recurrent_bytes = choice.schedule, recurrent_bytes(loaded, choice)
        self.costs, self.draft_model = sources.costs, sources.draft_model
        self.session, self._slots = self.sessions[0], SlotPool(self.sessions)

    def stream(
        self,
        prompt: Text | Sequence[int],
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Text | Sequence[Text] | None = (),
        logprobs: int | None = None,
        scores_prompt: bool = False,
        visible: Collection[int] = (),
        logits_processors: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriterion] = (),
        ends: Collection[int] = (),
        thinking: Thinking | None = None,
        thinking_budget: int | None = None,
        min_tokens: int = 0,
        kept_stops: Collection[str] = (),
        line_limit: LineLimit | None = None,
    ) -> Generation:
        """Generate after ``prompt`` (text, or token ids); iterate over the result for pieces of text.

        Text is tokenized with the model's own special tokens. The beginning that this prompt shares with the
        last conversation (of several, with the most similar one) is not decoded again. ``logprobs``: how many
        alternatives each token's logprob comes with, None for no logprobs. ``scores_prompt``: the tokens of
        the prompt get logprobs too, which takes a pass for each. ``visible``: control tokens whose
        text is part of the answer; ``ends``: tokens that end it as end tokens do. ``thinking``: the tags of
        the thinking that the text may begin with, which are part of the text; stop strings count behind it,
        and it is ended after ``thinking_budget`` tokens (None: as the settings say). ``logits_processors``
        change the logits of each token before it is chosen; with them, nothing is drafted.
        ``stopping_criteria`` are asked before each token is taken whether to stop. Nothing ends the text
        before it has ``min_tokens`` tokens, and stop strings count behind them; ``max_tokens`` 0 only reads
        the prompt. ``kept_stops``: those of ``stop`` that the text includes. ``line_limit`` ends code. Raises
        ContextFullError if the prompt does not fit, SettingsError.
        """
        self.check()
        ids = self.tokenize(prompt) if isinstance(prompt, Text) else _token_ids(prompt)
        sampling = sampling or Sampling()
        self._check_fits(ids)
        self._check_tokens(sampling.logit_bias, "of the logit bias")
        self._check_tokens(ends, "that ends the text")
        if max_tokens is not None and max_tokens < 0:
            raise SettingsError(f"max-tokens is {max_tokens}; it must be 0 or more")
        if logprobs is not None and logprobs < 0:
            raise SettingsError(f"logprobs is {logprobs}; it must be 0 or more")
        if thinking_budget is not None and thinking_budget < 0:
            raise SettingsError(f"the thinking budget is {thinking_budget}; it must be 0 or more")
        room, vocabulary = self.context_size - len(ids), self.model.vocabulary
        limit = room if max_tokens is None else min(room, max_tokens)
        sampler = sampler_for(sampling, vocabulary, len(ids))
        if min_tokens > 0:
            if sampling.grammar:
                raise SettingsError("a text in a given form must be able to end; leave min-tokens out")
            if min_tokens > (room if max_tokens is None else max_tokens):
                raise SettingsError(f"min-tokens is {min_tokens}; the text may have {limit} tokens at most")
            sampler = MinimumSampler(sampler, {*vocabulary.end_tokens, *ends}, len(ids), min_tokens)
        budget = self.settings.thinking_budget if thinking_budget is None else thinking_budget
        if thinking and budget is not None:
            sampler = BudgetedSampler(sampler, vocabulary, len(ids), budget, thinking)
        return Generation(
            self._slots,
            vocabulary,
            ids,
            processed(sampler, logits_processors),
            max_tokens=limit,
            limit_reason="length" if limit == max_tokens else "context",
            stop=stop_strings(stop),
            logprobs=logprobs,
            scores_prompt=scores_prompt,
            visible={*visible, *vocabulary.control_tokens_in("".join(thinking.texts if thinking else ()))},
            ends=frozenset(ends),
            thinking=thinking,
            stopping_criteria=stopping_criteria,
            min_tokens=min_tokens,
            kept_stops=kept_stops,
            line_limit=line_limit,
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        template_arguments: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        stop: Text | Sequence[Text] | None = (),
        **options: Any,
    ) -> Generation:
        """``stream`` the answer to ``messages`` (each with ``role`` and ``content``), rendered by the
        model's own chat template with ``template_arguments``; ``options`` as for ``stream``. The text begins
        with the model's thinking, if it thinks (``thinking.split_thinking`` separates it)."""
        prompt = self.prompt_text(messages, template_arguments=template_arguments)
        thinking = thinking_of(self.model.chat_template() or "", prompt)
        sampling = sampling or Sampling()
        if thinking and sampling.grammar:
            grammar = behind_thinking(sampling.grammar, thinking, self.model.vocabulary)
            sampling = replace(sampling, grammar=grammar)
        stop = [*stop_strings(stop), *self.chat_stop]
        return self.stream(prompt, sampling=sampling, stop=stop, thinking=thinking, **options)

    @property
    def chat_stop(self) -> tuple[str, ...]:
        """Strings that end an answer in a chat, beside the model's end tokens: there are some only if the
        chat template is not the model's own."""
        template = chat_template.known_template(self.model)
        return (template.end,) if template else ()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return ``messages`` as token ids, up to where the assistant speaks; ``template_arguments``, further
        variables, are for the template."""
        return self.tokenize(self.prompt_text(messages, template_arguments=template_arguments))

    def prompt_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        opens_turn: bool = True,
    ) -> str:
        """Return ``messages`` as the model's chat template writes them, up to where the assistant speaks;
        without ``opens_turn``, up to their end. ``tools`` and ``template_arguments``, further variables, are
        for the template."""
        self.check()
        arguments = dict(template_arguments or {})
        think = arguments.get("enable_thinking", self.settings.think)
        if think is not None:  # templates have one of two names for it
            arguments = {"enable_thinking": think, "thinking": think, **arguments}
        text = chat_template.render(
            self.model, messages, tools, tool_choice, arguments, opens_turn=opens_turn
        )
        if think is False and opens_turn:
            text += closed_thinking(self.model.chat_template() or "", text)
        return text

    def tokenize(self, text: Text) -> list[int]:
        """Return the token ids of ``text``, with control tokens parsed, and the model's BOS first if it wants
        one."""
        self.check()
        vocabulary = self.model.vocabulary
        raw = as_bytes(text)
        has_bos = vocabulary.bos >= 0 and raw.startswith(vocabulary.piece(vocabulary.bos, special=True))
        return vocabulary.tokenize(raw, add_special=not has_bos, parse_special=True).tolist()

    def steps(self, tokens: Sequence[int], sampler: Sampler) -> Generator[Step, None, None]:
        """Yield the passes that continue ``tokens``, past end tokens too, until the context is full. The last
        one may exceed it. Raises as ``stream``."""
        self.check()
        conversation, holder = _token_ids(tokens), object()
        self._check_fits(conversation, n_new=0)
        try:
            while len(conversation) <= self.context_size:
                session, is_new = self._slots.acquire(holder, conversation)
                if is_new:
                    session.prefill(conversation)
                step = session.step(sampler)
                conversation += step.tokens
                yield step
        finally:
            self._slots.release(holder)

    def logits_after(self, tokens: Sequence[int]) -> Floats:
        """Return the model's logits for the token after ``tokens``, (n_vocab,) float32. Raises as
        ``stream``."""
        with closing(self.steps(tokens, UNDRAFTED)) as steps:
            return next(steps).logits[0].copy()

    def saved(self, tokens: Sequence[int]) -> SavedSession:
        """Return the conversation that shares most with ``tokens``, with its KV cache."""
        with self._slots.held(tokens) as session:
            return session.saved(kv=True)

    def restore(self, saved: SavedSession) -> None:
        """Continue ``saved`` in one of the sessions. Raises as ``Session.restore``."""
        with self._slots.held(saved.tokens) as session:
            session.restore(saved)

    def check(self) -> None:
        """Raise SettingsError once the engine is closed, LibraryError after a fork."""
        self._slots.check()

    def _check_fits(self, ids: list[int], n_new: int = 1) -> None:
        if not ids:
            raise SettingsError("the prompt is empty; the model needs at least one token to start from")
        if len(ids) + n_new > self.context_size:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context_size}; "
                "shorten it or raise --ctx-size"
            )
        self._check_tokens(ids, "of the prompt")

    def _check_tokens(self, ids: Iterable[int], what: str) -> None:
        if not all(0 <= token < self.base.n_vocab for token in ids):
            raise SettingsError(f"a token id {what} is outside the vocabulary of {self.base.n_vocab}")

    def close(self) -> None:
        """Wait for running generations, then free the context, the heads and the model; safe to call
        twice."""
        if self._slots.close():
            self._opened.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _token_ids(tokens: Iterable[int]) -> list[int]:
    try:
        return [operator.index(token) for token in tokens]
    except TypeError:
        raise SettingsError(f"a prompt is {tokens!r:.60}; it must be text, or a list of token ids") from None
