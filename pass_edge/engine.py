"""The engine: a model, its lookahead and a context, and text streamed out of them.

>>> engine = Engine("model.gguf")
>>> for text in engine.stream("Once upon a time"):
...     print(text, end="")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pass_edge.calibration.calibration import calibrate, gpu_verdict
from pass_edge.decoding.batcher import Batcher, Inputs
from pass_edge.decoding.kv_cache import sequences_needed
from pass_edge.decoding.session import Session
from pass_edge.decoding.slots import SlotPool
from pass_edge.drafting.drafter import Drafter
from pass_edge.drafting.heads import Heads, quickest
from pass_edge.drafting.lookahead import Lookahead
from pass_edge.drafting.lookahead_file import find_lookahead, read_base, read_lookahead
from pass_edge.drafting.schedules import FORMS, Fixed, Schedule, rows_needed
from pass_edge.native import chat_template
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.devices import can_offload, default_threads
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import ContextFullError, LibraryError, SettingsError
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.library import kernels
from pass_edge.native.model import Model, check_is_gguf
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.draft_statistics import DraftStatistics
from pass_edge.planning.planner import FEW_SIZES, Planner, may_look_ahead
from pass_edge.sampling.constrained import sampler_for
from pass_edge.sampling.sampler import Sampling

from .generation import Generation
from .settings import (
    AUTO,
    DEFAULT_CONTEXT,
    SPARE_CELLS,
    Settings,
    context_settings,
    on_gpu,
    with_fitting_layers,
)

_LONGEST_CHAIN = 8  # that heads draft, one call each
_OTHERS = 2  # more in the place of each, of which few pay
_LONGEST_GROUP = 2  # lookahead tokens at a node: each costs a row at every node


class Engine:
    """A model ready to generate. Close it, or use it as a context manager.

    Its methods may be called from any thread: ``settings.parallel`` generations run side by side, and share
    forward passes; further ones wait, each until one before has ended or been dropped. ``sessions`` are not
    thread-safe by themselves. After a fork only the parent can use it.

    Attributes: ``model``; ``base``, what its file tells of it; ``settings``; ``lookahead`` (None: nothing
    is drafted); ``schedule``, the one in force; ``calibration``; ``notes``: what a user should
    know, such as why nothing is drafted; ``sessions``, and ``session``, the first of them; ``context_size``
    in tokens of each; ``costs``: what passes cost here, None where the schedule does not ask.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        lookahead: str | Path | Lookahead | None = AUTO,
        settings: Settings | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Load ``model`` (a GGUF file). ``lookahead``: a sidecar file, "auto" (beside the model, or
        shipped), or None. ``note`` is told of work that takes time. Raises PassEdgeError's children.
        """
        self.notes: list[str] = []
        self.costs: StepCosts | None = None
        path = check_is_gguf(Path(model))
        self.settings = self._place_layers(settings or Settings(), path, note)
        # the table of contents of a model is large, so what it tells is read before the model takes memory
        with GgufFile(path) as file:
            self.base = read_base(file)
            self.lookahead = found = self._find_lookahead(file, lookahead)
            embeddings = None if found is None else TokenEmbeddings(file)
        self.calibration = calibrate(path, self.settings, note)
        with ExitStack() as opened:
            self.model = opened.enter_context(
                Model(path, gpu_layers=self.settings.gpu_layers or 0, repack=self.calibration.repack)
            )
            self.context_size = self.settings.context_size or min(self.model.n_ctx_train, DEFAULT_CONTEXT)
            self.parallel = self._choose_parallel()
            self.schedule, self._depth = self._choose_schedule()
            context = opened.enter_context(Context(self.model, self._context_settings()))
            inputs = None
            if found is not None and embeddings is not None:
                inputs = Inputs(embeddings, found.embeddings, found.prefix)
            passes = Batcher(context, inputs, parallel=self.parallel, widest=self.calibration.widest_step)
            make_schedule = self._schedules(context, embeddings, opened, note)
            self.sessions = tuple(
                Session(passes, make_schedule(), number, n_vocab=self.base.n_vocab, rule=self.settings.verify)
                for number in range(self.parallel)
            )
            self.session = self.sessions[0]
            self._turns = SlotPool(self.sessions)
            self._opened = opened.pop_all()

    # -- generating -------------------------------------------------------------------------------

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> Generation:
        """Generate after ``prompt`` (text, or token ids); iterate over the result for pieces of text.

        Text is tokenized with the model's own special tokens. What this prompt shares with the last
        conversation (of several, with the one that it shares most with) is not decoded again. ``logprobs``:
        how many alternatives to tell with each token's own logprob; None tells none. Raises ContextFullError
        if the prompt does not fit, SettingsError.
        """
        self.check()
        ids = self.tokenize(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        sampling = sampling or Sampling()
        self._check_fits(ids)
        self._check_tokens(sampling.logit_bias, "of the logit bias")
        if max_tokens is not None and max_tokens < 1:
            raise SettingsError(f"max-tokens is {max_tokens}; it must be 1 or more")
        if logprobs is not None and logprobs < 0:
            raise SettingsError(f"logprobs is {logprobs}; it must be 0 or more")
        room = self.context_size - len(ids)
        return Generation(
            self._turns,
            self.model.vocabulary,
            ids,
            sampler_for(sampling, self.model.vocabulary, len(ids)),
            max_tokens=min(room, max_tokens or room),
            at_limit="length" if max_tokens and max_tokens <= room else "context",
            stop=stop,
            logprobs=logprobs,
        )

    def chat(self, messages: Sequence[Mapping[str, str]], **options: object) -> Generation:
        """``stream`` the answer to ``messages`` (each with ``role`` and ``content``), rendered by the
        model's own chat template; ``options`` as for ``stream``."""
        return self.stream(self.render(messages), **options)  # type: ignore[arg-type]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
    ) -> list[int]:
        """``messages`` as token ids, up to where the assistant speaks; ``tools`` are for the template."""
        self.check()
        return self.tokenize(chat_template.render(self.model, messages, tools, tool_choice))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``, control tokens read, the model's BOS in front if it wants one."""
        self.check()
        vocabulary = self.model.vocabulary
        has_bos = vocabulary.bos >= 0 and text.startswith(
            vocabulary.piece(vocabulary.bos, special=True).decode()
        )
        return vocabulary.tokenize(text, add_special=not has_bos, parse_special=True).tolist()

    def check(self) -> None:
        """Raises SettingsError once the engine is closed, LibraryError behind a fork."""
        self._turns.check()

    def _check_fits(self, ids: list[int]) -> None:
        if not ids:
            raise SettingsError("the prompt is empty; the model needs at least one token to start from")
        if len(ids) >= self.context_size:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context_size}; "
                "shorten it or raise --ctx-size"
            )
        self._check_tokens(ids, "of the prompt")

    def _check_tokens(self, ids: Iterable[int], what: str) -> None:
        if not all(0 <= token < self.base.n_vocab for token in ids):
            raise SettingsError(f"a token id {what} is outside the vocabulary of {self.base.n_vocab}")

    # -- setting up -------------------------------------------------------------------------------

    def _place_layers(self, settings: Settings, path: Path, note: Callable[[str], None]) -> Settings:
        # the child that tries it goes first: whoever asks a GPU for its free memory has taken a part of it
        if not can_offload() or settings.gpu_layers == 0 or gpu_verdict(note):
            return with_fitting_layers(settings, path)
        if settings.gpu_layers is not None:
            raise LibraryError("llama.cpp fails on the GPU here; --gpu-layers 0 does without it")
        self.notes.append("llama.cpp fails on the GPU here, so all layers stay on the CPU")
        return replace(settings, gpu_layers=0)

    def _context_settings(self) -> ContextSettings:
        prefix = None if self.lookahead is None else self.lookahead.prefix
        return replace(
            context_settings(self.model, self.settings, self.parallel * (self.context_size + SPARE_CELLS)),
            sequences=sequences_needed(0 if prefix is None else len(prefix), self.parallel),
            batch_size=self.calibration.prompt_batch,
        )

    def _choose_parallel(self) -> int:
        wanted = self.settings.parallel
        if wanted > 1 and not self.model.can_roll_back:
            self.notes.append(
                f"conversations cannot share the memory of a {self.model.architecture} model yet, "
                "so it answers one at a time"
            )
            return 1
        return wanted

    def _find_lookahead(self, model: GgufFile, wanted: str | Path | Lookahead | None) -> Lookahead | None:
        if wanted is None or self.settings.schedule == "plain":
            return None
        if wanted == AUTO:
            wanted = find_lookahead(model, self.base)
            if wanted is None:
                self.notes.append(
                    "no lookahead file fits this model, so drafts come from the conversation alone; "
                    "give one with --lookahead, or make one: pass-edge train"
                )
                return None
        lookahead = wanted if isinstance(wanted, Lookahead) else read_lookahead(wanted)
        self.notes += lookahead.matches(self.base)
        return lookahead

    def _choose_schedule(self) -> tuple[str, int]:
        """The schedule, and how many tokens it drafts ahead at most."""
        wanted, reason = self.settings.schedule, ""
        if wanted == "plain":
            return "plain", 0
        if not self.model.can_roll_back:
            reason = f"the memory of a {self.model.architecture} model cannot be rolled back"
        elif wanted != AUTO:
            reason = self._why_not(wanted)
        widest = self.calibration.widest_step
        if wanted == AUTO:
            depth = min(self.settings.draft_max or widest, widest - 1)
        else:
            depth = self.settings.draft_max or 1
            if wanted != "head" and self.lookahead is not None:
                depth = min(depth, len(self.lookahead))
            while depth and rows_needed(FORMS[wanted], depth) > widest:
                depth -= 1
        if not depth:
            reason = reason or f"only {widest} tokens may share a pass here without changing the logits"
        if reason:
            self.notes.append(f"{reason}, so it decodes plainly")
            return "plain", 0
        if self.calibration.width == 1:
            self.notes.append(
                "batch sizes change the logits here, so the text may leave plain decoding's at a near tie"
            )
        if "Q4_1" in self.model.description and not kernels():
            self.notes.append(
                "llama.cpp has no kernel for several tokens in Q4_1, so drafting gains more in Q4_0: "
                "pass-edge quantize MODEL.gguf OUTPUT.gguf Q4_0"
            )
        return wanted, depth

    def _schedules(
        self,
        context: Context,
        embeddings: TokenEmbeddings | None,
        opened: ExitStack,
        note: Callable[[str], None],
    ) -> Callable[[], Schedule]:
        """What makes each session's schedule; the heads and what passes cost are for all of them."""

        def heads(*, corrects: bool) -> Heads | None:
            lookahead = self.lookahead
            if lookahead is None or not embeddings:
                return None
            if not (lookahead.hidden_head or (corrects and lookahead.head)):
                return None
            # not more than passes have: those woken for a head alone spin on, and take the others' cores
            chosen = self.costs.threads if self.costs else None
            threads = chosen[0] if chosen else self.settings.threads or default_threads()
            make = partial(Heads, lookahead, embeddings, threads=threads, corrects=corrects)
            made = quickest(make) if on_gpu(self.settings) else make()
            return opened.enter_context(closing(made))

        if self.schedule == AUTO:
            widest = self._depth + 1 if self.parallel == 1 else self.calibration.widest_step
            costs = self.costs = step_costs(context, self.settings, widest, note)
            group = 0 if self._why_not("fused") else min(_LONGEST_GROUP, len(self.lookahead or ()))
            hidden_head = self.lookahead.hidden_head if self.lookahead else None
            looks = group > 0 and may_look_ahead(costs, has_head=bool(hidden_head))
            drafter = Drafter(_LONGEST_CHAIN, heads(corrects=looks), others=_OTHERS)
            sizes = FEW_SIZES if on_gpu(self.settings) else ()
            quotes, most = self.settings.ngrams, self._depth
            learnt = DraftStatistics(looks=looks)
            return lambda: Planner(
                costs, drafter, group, experience=learnt, quotes=quotes, most=most, sizes=sizes
            )
        # two-pass stays the paper's own: lookahead tokens alone
        drafts_by_head = self.schedule in ("head", "fused")
        drafter = Drafter(
            self._depth,
            heads(corrects=self.schedule == "fused") if drafts_by_head else None,
            self.settings.draft_p_min,
        )
        return lambda: Fixed(FORMS[self.schedule], drafter)

    def _why_not(self, schedule: str) -> str:
        """Why this model cannot draft as ``schedule`` does, if it cannot."""
        if self.lookahead is None:
            return f"{schedule} needs a lookahead file"
        if schedule == "head":
            return "" if self.lookahead.hidden_head else "this lookahead has no head for hidden states"
        if not len(self.lookahead):
            return "this lookahead has no lookahead embeddings"
        if not self.calibration.embeddings_exact:
            return f"llama.cpp's {self.model.architecture} graph does not take lookahead embeddings"
        return ""

    def close(self) -> None:
        """Wait for the generations under way, then free the context, the heads and the model; safe to call
        twice."""
        if self._turns.close():
            self._opened.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
