"""Train the lookahead for a GGUF model, in stages that each resume where they were stopped:

text       the model answers prompts
lookahead  lookahead embeddings, with a prefix, learn from the answers
head       the draft head on their outputs learns
hidden     the draft head on hidden states learns
measure    the sidecar is written, with the acceptance on answers to held-out prompts

All files are in one work folder. Finished work in it is not repeated.
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

from .acceptance import HEAD, HIDDEN, AcceptanceBySource
from .forecast import Gain, rounded_time, text_seconds, training_seconds
from .frozen import FrozenModel
from .heads import Anchors, TrainedHead, most_likely_tokens, train_head
from .lookahead import TrainedLookahead, train_lookahead
from .loop import StepProgress, is_finished
from .outputs import make_outputs
from .prompts import SHAREGPT, check_prompts, encode_prompt, read_prompts, without_overlap
from .recipe import STAGES, Recipe
from .text import TrainingText, make_texts, read_texts

RECIPE = "recipe.json"
_FILES = ("prompts", "held_out", "start")
"""The settings that name files."""

StageProgress = Callable[[str, int, int, str], None]
"""Progress callback: the name of the work, done, total, status text."""


@dataclass
class Training:
    """A training of one model by one recipe in one folder. Its methods raise SettingsError, ModelError,
    LookaheadError, OutputError.

    ``progress``: progress callback; ``notify``: called with sentences for the user. Attributes ``lookahead``,
    ``head``, ``hidden``: what has been learned so far.
    """

    model: Path
    recipe: Recipe
    folder: Path
    progress: StageProgress = lambda name, done, total, status: None
    notify: Callable[[str], None] = lambda sentence: None
    threads: int | None = None
    lookahead: TrainedLookahead | None = field(default=None, init=False)
    head: TrainedHead | None = field(default=None, init=False)
    hidden: TrainedHead | None = field(default=None, init=False)

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the first, or only, one: it alone writes files and reports progress."""
        return bool(PartialState().is_main_process)

    def run(self, output: Path, stages: Sequence[str] = STAGES) -> None:
        """Run ``stages``. The last one, "measure", writes ``output``."""
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
        parts = self._parts_for(stages)
        if parts:
            texts, held_out = self._texts("text"), self._texts("held-out-text")
        if "lookahead" in parts:
            self._check_finished("lookahead", stages)
            self.lookahead = self._learn_lookahead(texts, held_out)
        if "head" in parts:
            self._check_finished("head", stages)
            self.head = self._learn_head(texts, held_out)
        if "hidden" in parts:
            self._check_finished("hidden", stages)
            self.hidden = self._learn_hidden(texts, held_out)
        if "measure" in stages and self.is_main_process:
            write_sidecar(self.result(), output)

    def _parts_for(self, stages: Sequence[str]) -> list[str]:
        """Return the parts of the recipe that ``stages`` need. Loading a finished part costs nothing."""
        recipe, needed = self.recipe, {*stages}
        if "measure" in stages:
            needed |= {"lookahead", "head", "hidden"}
        if recipe.lookahead and recipe.head_width and "head" in needed:
            needed.add("lookahead")  # the head learns from its outputs
        head_width = recipe.head_width if recipe.lookahead else 0
        sizes = {"lookahead": recipe.lookahead, "head": head_width, "hidden": recipe.hidden_width}
        return [name for name, size in sizes.items() if size and name in needed]

    @cached_property
    def _start(self) -> Lookahead | None:
        return read_lookahead(self.recipe.start) if self.recipe.start else None

    def result(self) -> Lookahead:
        """Return the lookahead for the runtime, with the acceptance of the source that drafts by default."""
        rows, head, hidden = self.lookahead, self.head, self.hidden
        default = hidden or head or rows
        if not default:
            raise SettingsError("nothing was learnt yet")
        return Lookahead(
            embeddings=rows.embeddings if rows else np.zeros((0, self._base.n_embd), np.float32),
            base=self._base,
            acceptance=list(default.measured[-1][1].values())[-1].top_1,
            training=_describe(self.recipe),
            prefix=rows.prefix if rows and len(rows.prefix) else None,
            head=head.weights if head else None,
            hidden_head=hidden.weights if hidden else None,
            candidates=self._candidates() if head or hidden else np.zeros(0, np.int32),
        )

    def _candidates(self) -> npt.NDArray[np.int32]:
        return most_likely_tokens(self._texts("text"), self.recipe.candidates)

    # -- the work folder --------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Write the recipe to the folder, or check that the folder is of the same recipe."""
        fingerprint = self._fingerprint()
        path = self.folder / RECIPE
        if not path.exists() and not self.is_main_process:
            return
        if not path.exists():
            # before anything is written: a training that cannot begin must not leave a folder behind
            for source in filter(None, (self.recipe.prompts, self.recipe.held_out)):
                check_prompts(source)
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as unfinished:
                unfinished.write_text(json.dumps(fingerprint, indent=2) + "\n", "utf-8")
            return
        try:
            # a recipe of an earlier version lacks settings that came later
            saved = asdict(Recipe()) | json.loads(path.read_text("utf-8"))
            differences = [
                f"{k} {saved.get(k)}, not {v}" for k, v in fingerprint.items() if saved.get(k) != v
            ]
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{path} is damaged; name another folder with --work") from error
        if differences:
            raise SettingsError(
                f"{self.folder} holds another training ({'; '.join(differences).replace('_', '-')}): "
                "ask for the same, name another folder with --work, or delete this one"
            )

    def _fingerprint(self) -> dict[str, Any]:
        """Return the contents of recipe.json: the recipe and the model, with hashes in the place of files."""
        recipe, base = self.recipe, self._base
        model = f"{base.name}, {self.model.stat().st_size} bytes, {base.embeddings_sha256[:16]}"
        files = {key: _identity(getattr(recipe, key)) for key in _FILES}
        also = [_identity(str(Path(folder) / RECIPE)) for folder in recipe.also]
        return {"model": model, **asdict(recipe), **files, "also": also}

    def _check_finished(self, stage: str, stages: Sequence[str]) -> None:
        if stage not in stages and not is_finished(self.folder / f"{stage}.pt"):
            raise SettingsError(f"{self.folder} has no finished stage {stage!r} yet: run that stage first")

    # -- text -------------------------------------------------------------------------------------

    def _count(self, name: str) -> int:
        """Return how many answers the folder's "text" or "held-out-text" has when finished."""
        recipe = self.recipe
        if name == "text":
            return recipe.answers
        if not recipe.held_out:
            return recipe.held_out_answers
        return min(recipe.held_out_answers, sum(1 for _ in read_prompts(recipe.held_out)))

    def _finished_texts(self, name: str) -> list[TrainingText]:
        return read_texts(self.folder / name, self._base.n_embd)[: self._count(name)]

    def _texts(self, name: str) -> list[TrainingText]:
        """Return all answers of the folder's "text" or "held-out-text"; before "text", those of other
        folders."""
        texts = self._finished_texts(name)
        if len(texts) < self._count(name):
            raise SettingsError(f"{self.folder} has no finished stage 'text' yet: run that stage first")
        folders = self.recipe.also if name == "text" else ()
        return [text for folder in folders for text in self._texts_of(Path(folder))] + texts

    def _texts_of(self, folder: Path) -> list[TrainingText]:
        """Return the text of another training."""
        try:
            recipe = json.loads((folder / RECIPE).read_text("utf-8"))
            fingerprint = self._fingerprint()
            matches = all(recipe[key] == fingerprint[key] for key in ("model", "held_out"))
            texts = read_texts(folder / "text", self._base.n_embd)[: recipe["answers"]]
            complete = len(texts) == recipe["answers"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{folder} holds no text of a training: {error}") from error
        if not matches:
            raise SettingsError(f"{folder} holds the text of another model, or held other prompts out")
        if not complete:
            raise SettingsError(f"the text in {folder} is not finished: run its stage 'text' first")
        return texts

    def _make_texts(self) -> None:
        """Make the answers to learn from and the held-out ones."""
        if all(len(self._finished_texts(name)) >= self._count(name) for name in ("text", "held-out-text")):
            return
        if PartialState().num_processes > 1:
            raise SettingsError("text is made by one process: run the stage 'text' alone first")
        with self._open_engine() as engine:
            prompts, held_out = self._choose_prompts(engine)
            self._tell_time(engine, prompts)
            self._answer(engine, prompts, "text", with_prompts=self.recipe.learn_prompts)
            self._answer(engine, held_out, "held-out-text")

    def _open_engine(self) -> Engine:
        settings = Settings(threads=self.threads)
        return Engine(self.model, lookahead=None, settings=settings, note=self.notify)

    def _tell_time(self, engine: Engine, prompts: Sequence[str]) -> None:
        if engine.costs is None:
            return
        missing = prompts[len(self._finished_texts("text")) :]
        encoded = [encode_prompt(engine, prompt) for prompt in missing]
        text = rounded_time(text_seconds(engine.costs, encoded, self.recipe.max_tokens))
        learning = training_seconds(self.recipe, self._base.n_embd, PartialState().device)
        hidden = f", and the hidden head about {rounded_time(learning)}" if learning else ""
        self.notify(f"the text takes up to {text}{hidden}; Ctrl-C stops, and the same command goes on later")

    def _choose_prompts(self, engine: Engine) -> tuple[list[str], list[str]]:
        """Return the prompts to learn from and the held-out ones."""
        recipe, longest = self.recipe, self._longest_prompt(engine)
        usable = (p for p in read_prompts(recipe.prompts) if len(encode_prompt(engine, p)) <= longest)
        if recipe.held_out:
            held_out = list(read_prompts(recipe.held_out))
        else:
            held_out = list(islice(usable, recipe.held_out_answers))
        if not held_out:
            raise SettingsError(f"no prompt of {recipe.prompts} has at most {longest} tokens")
        overlapping: list[str] = []
        prompts = list(islice(without_overlap(usable, held_out, overlapping.append), recipe.answers))
        if overlapping:
            self.notify(
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

    def _answer(
        self, engine: Engine, prompts: Sequence[str], name: str, *, with_prompts: bool = False
    ) -> None:
        label = "held-out text" if name == "held-out-text" else name
        make_texts(
            engine,
            prompts,
            self.folder / name,
            count=self._count(name),
            max_tokens=self.recipe.max_tokens,
            max_prompt=self._longest_prompt(engine),
            with_prompts=with_prompts,
            seed=self.recipe.seed,
            progress=lambda done, total: self.progress(label, done, total, ""),
        )

    # -- learning ---------------------------------------------------------------------------------

    def _learn_lookahead(
        self, texts: Sequence[TrainingText], held_out: Sequence[TrainingText]
    ) -> TrainedLookahead:
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
            measure_every=max(1, recipe.steps // 4),  # measuring takes long
            seed=recipe.seed,
            progress=self._step_progress("lookahead"),
        )

    def _learn_head(self, texts: Sequence[TrainingText], held_out: Sequence[TrainingText]) -> TrainedHead:
        assert self.lookahead, "the head learns from its outputs"
        rows, load_model = self.lookahead, cache(partial(FrozenModel, self.model, PartialState().device))
        learn, measured = [
            make_outputs(
                load_model,
                source,
                rows.embeddings,
                rows.prefix,
                self.folder,
                depth=depth,
                progress=lambda done, total: self.progress("outputs", done, total, ""),
            )
            for source, depth in ((texts, self.recipe.head_depth), (held_out, len(rows.embeddings)))
        ]
        start = None if self._start is None else self._start.head
        return self._train_head(HEAD, "head.pt", self.recipe.head_width, start, learn, measured)

    def _learn_hidden(self, texts: Sequence[TrainingText], held_out: Sequence[TrainingText]) -> TrainedHead:
        learn, measured = (Anchors.from_hidden_states(source) for source in (texts, held_out))
        start = None if self._start is None else self._start.hidden_head
        width, gain = self.recipe.hidden_width, self._gain()
        return self._train_head(HIDDEN, "hidden.pt", width, start, learn, measured, gain)

    def _gain(self) -> Gain | None:
        """Measure what the hidden head will cost here; None where that is not known."""
        if not self.is_main_process or is_finished(self.folder / "hidden.pt"):
            return None
        with self._open_engine() as engine:
            costs = engine.costs
        if costs is None:
            return None
        return Gain.measure(costs, self.model, self._base, self._candidates(), self.recipe.hidden_width)

    def _train_head(
        self,
        name: str,
        state: str,
        width: int,
        start: HeadWeights | None,
        learn: Anchors,
        held_out: Anchors,
        gain: Gain | None = None,
    ) -> TrainedHead:
        recipe = self.recipe
        same_width = start is not None and start.width == width
        return train_head(
            name,
            self.model,
            learn.up_to(recipe.head_depth),
            held_out,
            self.folder / state,
            candidates=self._candidates(),
            width=width,
            start=start if same_width else None,
            steps=recipe.head_steps,
            lr=recipe.head_lr,
            measure_every=max(1, recipe.head_steps // 20),
            seed=recipe.seed,
            progress=self._step_progress(name, gain),
        )

    def _step_progress(self, name: str, gain: Gain | None = None) -> StepProgress:
        def report(step: int, steps: int, loss: float, measured: AcceptanceBySource) -> None:
            if self.is_main_process:
                status = f"loss {loss:.2f}"
                for shares in list(measured.values())[-1:]:
                    status += f", accepted {' '.join(f'{share:.2f}' for share in shares.top_1)}"
                    status += f", speed x {gain.speed(shares):.2f}" if gain else ""
                self.progress(name, step, steps, status)

        return report


def _identity(source: str | None) -> str | None:
    """Return a string that identifies a source of prompts by its contents, wherever it is stored."""
    if source is None or source == SHAREGPT:
        return source
    try:
        return f"{Path(source).name} {hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise SettingsError(f"{source} cannot be read: {error.strerror}") from error


def _describe(recipe: Recipe) -> str:
    """Return the recipe as text for the sidecar, with file names but without folders."""
    names = {key: Path(source).name for key in _FILES if (source := getattr(recipe, key))}
    also = " ".join(Path(folder).name for folder in recipe.also)
    settings = asdict(recipe) | names | {"also": also or None}
    return "pass-edge train: " + ", ".join(
        f"{key.replace('_', '-')} {value}" for key, value in settings.items() if value is not None
    )
