"""From a GGUF file to the lookahead for it, in stages that each go on where they were stopped:

text       the model answers prompts
lookahead  lookahead embeddings (with a prefix and a head) learn from the answers
hidden     the hidden head learns from them
measure    drafts of all kinds are counted on answers to prompts that were held out

All of it lies in one folder; what is there already is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pass_edge import Engine, Settings
from pass_edge.lookahead import Lookahead
from pass_edge.lookahead_file import read_base
from pass_edge.native.errors import SettingsError

from .acceptance import Measured
from .hidden import NAME, TrainedHead, train_hidden_head
from .lookahead import Trained, train_lookahead
from .prompts import SHAREGPT, read_prompts, without_overlap
from .text import Answered, make_text

STAGES = ("text", "lookahead", "hidden", "measure")
Note = Callable[[str, int, int, str], None]
"""Told of work: what it is, how much of how much is done, and how it goes."""


@dataclass(frozen=True)
class Recipe:
    """What to make. ``prompts``, ``held_out``: as in prompts.read_prompts; without ``held_out`` the first
    prompts are held out. ``answers``: how many to learn from; ``max_tokens``: of each. ``lookahead``,
    ``prefix``: how many rows of each; ``head_width``, ``hidden_width``: of the heads on lookahead outputs
    and on hidden states. 0 leaves a thing out."""

    prompts: str = SHAREGPT
    held_out: str | None = None
    answers: int = 1280
    held_out_answers: int = 64
    max_tokens: int = 256
    lookahead: int = 4
    prefix: int = 0
    head_width: int = 0
    hidden_width: int = 1024
    candidates: int = 8192
    steps: int = 1000
    hidden_steps: int = 10000
    seed: int = 0


@dataclass
class Training:
    """One model, one recipe and one folder. Raises SettingsError, ModelError, LookaheadError."""

    model: Path
    recipe: Recipe
    folder: Path
    note: Note
    threads: int | None = None
    trained: Trained | None = field(default=None, init=False)
    hidden: TrainedHead | None = field(default=None, init=False)

    def texts(self) -> tuple[list[Answered], list[Answered]]:
        """Answers to learn from, and those that are held out."""
        recipe = self.recipe
        prompts = read_prompts(recipe.prompts)
        if recipe.held_out:
            held_out = list(read_prompts(recipe.held_out))
        else:
            held_out = [prompt for prompt, _ in zip(prompts, range(recipe.held_out_answers), strict=False)]
        if not held_out:
            raise SettingsError("there are no prompts to hold out")
        settings = Settings(schedule="plain", threads=self.threads)
        with Engine(self.model, lookahead=None, settings=settings) as engine:
            made = []
            for name, some, count in (
                ("held-out text", held_out, min(len(held_out), recipe.held_out_answers)),
                ("text", without_overlap(prompts, held_out), recipe.answers),
            ):
                made.append(
                    make_text(
                        engine,
                        some,
                        self.folder / name.replace(" ", "-"),
                        count=count,
                        max_tokens=recipe.max_tokens,
                        max_prompt=min(1536, engine.context_size - recipe.max_tokens),
                        seed=recipe.seed,
                        progress=lambda done, total, what=name: self.note(what, done, total, ""),
                    )
                )
        return made[1], made[0]

    def learn_lookahead(self, texts: Sequence[Answered], held_out: Sequence[Answered]) -> None:
        """Train the rows, the prefix and the head on lookahead outputs that the recipe asks for."""
        recipe = self.recipe
        self.trained = train_lookahead(
            self.model,
            texts,
            held_out,
            self.folder,
            count=recipe.lookahead,
            prefix=recipe.prefix,
            head_width=recipe.head_width,
            steps=recipe.steps,
            seed=recipe.seed,
            progress=self._progress("lookahead"),
        )

    def learn_hidden(self, texts: Sequence[Answered], held_out: Sequence[Answered]) -> None:
        """Train the head on hidden states that the recipe asks for."""
        recipe = self.recipe
        self.hidden = train_hidden_head(
            self.model,
            texts,
            held_out,
            self.folder,
            width=recipe.hidden_width,
            candidates=recipe.candidates,
            steps=recipe.hidden_steps,
            seed=recipe.seed,
            progress=self._progress(NAME),
        )

    def result(self) -> Lookahead:
        """What was learnt, as the runtime takes it."""
        base, trained, hidden = read_base(self.model), self.trained, self.hidden
        source = hidden or (trained if trained and trained.head else None)
        parts = [part for part in (trained, hidden) if part]
        best = max(shares.top_1 for part in parts for shares in part.measured[-1][1].values())
        return Lookahead(
            embeddings=trained.embeddings if trained else np.zeros((0, base.n_embd), np.float32),
            base=base,
            acceptance=best,
            training=f"{self.recipe}",
            prefix=trained.prefix if trained and len(trained.prefix) else None,
            head=trained.head if trained else None,
            hidden_head=hidden.weights if hidden else None,
            candidates=source.candidates if source else np.zeros(0, np.int32),
        )

    def _progress(self, what: str) -> Callable[[int, int, float, Measured], None]:
        def told(step: int, steps: int, loss: float, measured: Measured) -> None:
            accepted = ", ".join(f"{name} {shares.top_1[0]:.2f}" for name, shares in measured.items())
            self.note(what, step, steps, f"loss {loss:.2f}" + (f", right {accepted}" if accepted else ""))

        return told


def train(training: Training, stages: Sequence[str] = STAGES) -> Lookahead | None:
    """Go through ``stages`` of ``training``; the lookahead, if anything was learnt."""
    texts, held_out = training.texts()
    if training.recipe.lookahead and "lookahead" in stages:
        training.learn_lookahead(texts, held_out)
    if training.recipe.hidden_width and "hidden" in stages:
        training.learn_hidden(texts, held_out)
    return training.result() if training.trained or training.hidden else None
