"""From a GGUF file to the lookahead for it, in stages that each go on where they were stopped:

text       the model answers prompts
lookahead  lookahead embeddings (with a prefix) learn from the answers
head       the draft head on their outputs learns
hidden     the hidden head learns
measure    the sidecar is written, with the acceptance on answers to prompts that were held out

All of it lies in one folder; what is there already is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState

from pass_edge import Engine, Settings
from pass_edge.drafting.lookahead import Lookahead
from pass_edge.drafting.lookahead_file import read_base, read_lookahead, write_sidecar
from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.errors import OutputError, SettingsError
from pass_edge.native.output_file import atomic_write

from .acceptance import HEAD, HIDDEN, Measured
from .frozen import FrozenModel
from .heads import Anchors, TrainedHead, likeliest, train_head
from .lookahead import Trained, train_lookahead
from .loop import is_finished
from .outputs import make_outputs
from .prompts import SHAREGPT, as_prompt, check_prompts, read_prompts, without_overlap
from .text import Answered, make_text, read_text

STAGES = ("text", "lookahead", "head", "hidden", "measure")
RECIPE = "recipe.json"
_FILES = ("prompts", "held_out", "start")

Note = Callable[[str, int, int, str], None]
"""Told of work: what it is, how much of how much is done, and how it goes."""


@dataclass(frozen=True)
class Recipe:
    """What to make. ``prompts``, ``held_out``: as in prompts.read_prompts; without ``held_out`` the first
    prompts are held out. ``also``: folders of other trainings of this model with the same prompts held out,
    whose text is learnt from too. ``answers``: how many to learn from; ``max_tokens``, ``max_prompt``: of
    each answer, of its prompt. ``start``: a sidecar to begin with: its lookahead embeddings, and its heads
    where they are as wide. ``lookahead``, ``prefix``: how many rows of each; ``head_width``,
    ``hidden_width``: of the heads on lookahead outputs and on hidden states; 0 leaves a thing out.
    ``steps``: for the rows; ``head_steps``: for each head; ``head_lr``: its learning rate; ``head_depth``:
    drafts in a row that heads learn. Raises SettingsError."""

    prompts: str = SHAREGPT
    held_out: str | None = None
    also: tuple[str, ...] = ()
    answers: int = 1280
    held_out_answers: int = 64
    max_tokens: int = 256
    max_prompt: int = 640
    start: str | None = None
    lookahead: int = 4
    prefix: int = 0
    head_width: int = 1024
    hidden_width: int = 1024
    candidates: int = 8192
    steps: int = 1000
    head_steps: int = 600
    head_lr: float = 1.5e-3
    head_depth: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lookahead and (self.prefix or self.head_width):
            raise SettingsError("a prefix, and a head on lookahead outputs, need lookahead embeddings")
        if not self.lookahead and not self.hidden_width:
            raise SettingsError("there is nothing to train: neither lookahead embeddings nor a hidden head")
        if self.also and not self.held_out:
            raise SettingsError("with --also, name the prompts to measure on with --held-out")


@dataclass
class Training:
    """One model, one recipe and one folder. ``remark`` is told sentences. ``lookahead``, ``hidden``: what was
    learnt so far. Raises SettingsError, ModelError, LookaheadError, OutputError."""

    model: Path
    recipe: Recipe
    folder: Path
    note: Note = lambda what, done, total, how: None
    remark: Callable[[str], None] = lambda sentence: None
    threads: int | None = None
    lookahead: Trained | None = field(default=None, init=False)
    head: TrainedHead | None = field(default=None, init=False)
    hidden: TrainedHead | None = field(default=None, init=False)

    @property
    def leads(self) -> bool:
        """Whether this process is the first, or the only one: the one that writes and speaks."""
        return bool(PartialState().is_main_process)

    def run(self, output: Path, stages: Sequence[str] = STAGES) -> None:
        """Go through ``stages``; the last one writes ``output``."""
        try:
            self._run(output, stages)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be used: {error.strerror or error}") from error

    def _run(self, output: Path, stages: Sequence[str]) -> None:
        self._base = read_base(self.model)
        self._claim_folder()
        if self.threads:
            torch.set_num_threads(self.threads)
        if "text" in stages:
            self._make_texts()
        recipe, asked = self.recipe, {*stages}
        if (recipe.head_width and "head" in asked) or "measure" in asked:
            asked.add("lookahead")  # what the head learns from; what is there already costs nothing
        sizes = {"lookahead": recipe.lookahead, "head": recipe.head_width, "hidden": recipe.hidden_width}
        wanted = [name for name, size in sizes.items() if size and {name, "measure"} & asked]
        if wanted:
            texts, held_out = self._texts("text"), self._texts("held-out-text")
        if "lookahead" in wanted:
            self._check_finished("lookahead", stages)
            self.lookahead = self._learn_lookahead(texts, held_out)
        if "head" in wanted:
            self._check_finished("head", stages)
            self.head = self._learn_head(texts, held_out)
        if "hidden" in wanted:
            self._check_finished("hidden", stages)
            self.hidden = self._learn_hidden(texts, held_out)
        if "measure" in stages and self.leads:
            write_sidecar(self.result(), output)

    @cached_property
    def _start(self) -> Lookahead | None:
        return read_lookahead(self.recipe.start) if self.recipe.start else None

    def result(self) -> Lookahead:
        """What was learnt, as the runtime takes it, with the acceptance of what drafts by default."""
        rows, head, hidden = self.lookahead, self.head, self.hidden
        drafting = hidden or head or rows
        if not drafting:
            raise SettingsError("nothing was learnt yet")
        return Lookahead(
            embeddings=rows.embeddings if rows else np.zeros((0, self._base.n_embd), np.float32),
            base=self._base,
            acceptance=list(drafting.measured[-1][1].values())[-1].top_1,
            training=_in_words(self.recipe),
            prefix=rows.prefix if rows and len(rows.prefix) else None,
            head=head.weights if head else None,
            hidden_head=hidden.weights if hidden else None,
            candidates=self._candidates() if head or hidden else np.zeros(0, np.int32),
        )

    def _candidates(self) -> npt.NDArray[np.int32]:
        return likeliest(self._texts("text"), self.recipe.candidates)

    # -- the folder -------------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Write down what is made here, or see that it is the same."""
        asked = self._asked()
        path = self.folder / RECIPE
        if not path.exists() and not self.leads:
            return
        if not path.exists():
            # before anything is written: a folder of a training that could not begin would only be in the way
            for source in filter(None, (self.recipe.prompts, self.recipe.held_out)):
                check_prompts(source)
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as unfinished:
                unfinished.write_text(json.dumps(asked, indent=2) + "\n", "utf-8")
            return
        try:
            there = json.loads(path.read_text("utf-8"))
            differences = [f"{k} {there.get(k)}, not {v}" for k, v in asked.items() if there.get(k) != v]
        except (ValueError, AttributeError) as error:
            raise SettingsError(f"{path} is damaged; name another folder with --work") from error
        if differences:
            raise SettingsError(
                f"{self.folder} holds another training ({'; '.join(differences).replace('_', '-')}): "
                "ask for the same, name another folder with --work, or delete this one"
            )

    def _asked(self) -> dict[str, Any]:
        recipe, base = self.recipe, self._base
        model = f"{base.name}, {self.model.stat().st_size} bytes, {base.embeddings_sha256[:16]}"
        sources = {key: _identity(getattr(recipe, key)) for key in _FILES}
        asked = {"model": model, **asdict(recipe), **sources}
        return asked | {"also": [_identity(str(Path(folder) / RECIPE)) for folder in recipe.also]}

    def _check_finished(self, stage: str, stages: Sequence[str]) -> None:
        if stage not in stages and not is_finished(self.folder / f"{stage}.pt"):
            raise SettingsError(f"{self.folder} has no finished stage {stage!r} yet: run that stage first")

    # -- text -------------------------------------------------------------------------------------

    def _count(self, name: str) -> int:
        recipe = self.recipe
        if name == "text":
            return recipe.answers
        if not recipe.held_out:
            return recipe.held_out_answers
        return min(recipe.held_out_answers, sum(1 for _ in read_prompts(recipe.held_out)))

    def _there(self, name: str) -> list[Answered]:
        return read_text(self.folder / name, self._base.n_embd)[: self._count(name)]

    def _texts(self, name: str) -> list[Answered]:
        """All answers in the folder's ``name``; those to learn from come behind those of other folders."""
        texts = self._there(name)
        if len(texts) < self._count(name):
            raise SettingsError(f"{self.folder} has no finished stage 'text' yet: run that stage first")
        others = self.recipe.also if name == "text" else ()
        return [text for folder in others for text in self._text_of(Path(folder))] + texts

    def _text_of(self, folder: Path) -> list[Answered]:
        """The text of another training."""
        try:
            there = json.loads((folder / RECIPE).read_text("utf-8"))
            asked = self._asked()
            same = all(there[key] == asked[key] for key in ("model", "held_out"))
            texts = read_text(folder / "text", self._base.n_embd)[: there["answers"]]
            whole = len(texts) == there["answers"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{folder} holds no text of a training: {error}") from error
        if not same:
            raise SettingsError(f"{folder} holds the text of another model, or held other prompts out")
        if not whole:
            raise SettingsError(f"the text in {folder} is not finished: run its stage 'text' first")
        return texts

    def _make_texts(self) -> None:
        """Answers to learn from, and those that are held out."""
        if all(len(self._there(name)) >= self._count(name) for name in ("text", "held-out-text")):
            return
        if PartialState().num_processes > 1:
            raise SettingsError("text is made by one process: run the stage 'text' alone first")
        settings = Settings(schedule="plain", threads=self.threads)
        with Engine(self.model, lookahead=None, settings=settings, note=self.remark) as engine:
            prompts, held_out = self._choose_prompts(engine)
            self._answer(engine, prompts, "text")
            self._answer(engine, held_out, "held-out-text")

    def _choose_prompts(self, engine: Engine) -> tuple[list[str], list[str]]:
        """To learn from, and held out."""
        recipe, longest = self.recipe, self._longest_prompt(engine)
        usable = (p for p in read_prompts(recipe.prompts) if len(as_prompt(engine, p)) <= longest)
        if recipe.held_out:
            held_out = list(read_prompts(recipe.held_out))
        else:
            held_out = list(islice(usable, recipe.held_out_answers))
        if not held_out:
            raise SettingsError(f"no prompt of {recipe.prompts} has at most {longest} tokens")
        overlapping: list[str] = []
        prompts = list(islice(without_overlap(usable, held_out, overlapping.append), recipe.answers))
        if overlapping:
            self.remark(
                f"{len(overlapping)} prompts are left out: they share 12 words in a row with held-out ones, "
                "or are the same"
            )
        return prompts, held_out

    def _longest_prompt(self, engine: Engine) -> int:
        room = engine.context_size - self.recipe.max_tokens
        if room < 1:
            raise SettingsError(
                f"answers of {self.recipe.max_tokens} tokens leave no room for prompts in a context of "
                f"{engine.context_size}"
            )
        return min(self.recipe.max_prompt, room)

    def _answer(self, engine: Engine, prompts: Sequence[str], name: str) -> None:
        what = "held-out text" if name == "held-out-text" else name
        make_text(
            engine,
            prompts,
            self.folder / name,
            count=self._count(name),
            max_tokens=self.recipe.max_tokens,
            max_prompt=self._longest_prompt(engine),
            seed=self.recipe.seed,
            progress=lambda done, total: self.note(what, done, total, ""),
        )

    # -- learning ---------------------------------------------------------------------------------

    def _learn_lookahead(self, texts: Sequence[Answered], held_out: Sequence[Answered]) -> Trained:
        recipe = self.recipe
        return train_lookahead(
            self.model,
            texts,
            held_out,
            self.folder,
            count=recipe.lookahead,
            prefix=recipe.prefix,
            start=None if self._start is None else self._start.embeddings,
            steps=recipe.steps,
            measure_every=max(1, recipe.steps // 4),  # it takes long
            seed=recipe.seed,
            progress=self._progress("lookahead"),
        )

    def _learn_head(self, texts: Sequence[Answered], held_out: Sequence[Answered]) -> TrainedHead:
        assert self.lookahead, "its outputs come first"
        rows, frozen = self.lookahead, cache(partial(FrozenModel, self.model, PartialState().device))
        outputs = [
            make_outputs(
                frozen,
                some,
                rows.embeddings,
                rows.prefix,
                self.folder,
                depth=depth,
                progress=lambda done, total: self.note("outputs", done, total, ""),
            )
            for some, depth in ((texts, self.recipe.head_depth), (held_out, len(rows.embeddings)))
        ]
        start = None if self._start is None else self._start.head
        return self._train_head(HEAD, "head.pt", self.recipe.head_width, start, *outputs)

    def _learn_hidden(self, texts: Sequence[Answered], held_out: Sequence[Answered]) -> TrainedHead:
        anchors = (Anchors.on_hidden(some) for some in (texts, held_out))
        start = None if self._start is None else self._start.hidden_head
        return self._train_head(HIDDEN, "hidden.pt", self.recipe.hidden_width, start, *anchors)

    def _train_head(
        self,
        name: str,
        state: str,
        width: int,
        start: HeadWeights | None,
        learn: Anchors,
        held_out: Anchors,
    ) -> TrainedHead:
        recipe = self.recipe
        as_wide = start is not None and start.width == width
        return train_head(
            name,
            self.model,
            learn.up_to(recipe.head_depth),
            held_out,
            self.folder / state,
            candidates=self._candidates(),
            width=width,
            start=start if as_wide else None,
            steps=recipe.head_steps,
            lr=recipe.head_lr,
            measure_every=max(1, recipe.head_steps // 20),
            seed=recipe.seed,
            progress=self._progress(name),
        )

    def _progress(self, what: str) -> Callable[[int, int, float, Measured], None]:
        def told(step: int, steps: int, loss: float, measured: Measured) -> None:
            if self.leads:
                shares = list(measured.values())[-1:]
                accepted = "".join(f", accepted {' '.join(f'{x:.2f}' for x in s.top_1)}" for s in shares)
                self.note(what, step, steps, f"loss {loss:.2f}{accepted}")

        return told


def _identity(source: str | None) -> str | None:
    """What tells a source of prompts from others, wherever it lies."""
    if source is None or source == SHAREGPT:
        return source
    try:
        return f"{Path(source).name} {hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise SettingsError(f"{source} cannot be read: {error.strerror}") from error


def _in_words(recipe: Recipe) -> str:
    """The recipe for people, without the folders of whoever cooked."""
    names = {key: Path(source).name for key in _FILES if (source := getattr(recipe, key))}
    also = " ".join(Path(folder).name for folder in recipe.also)
    told = asdict(recipe) | names | {"also": also or None}
    return "pass-edge train: " + ", ".join(
        f"{key.replace('_', '-')} {value}" for key, value in told.items() if value is not None
    )
