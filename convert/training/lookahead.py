"""Lookahead embeddings, and with them a prefix and a draft head, learnt through the frozen model.

Only they learn, and only from what the model itself says: behind a text's token at t, row k's output is to
be the model's own distribution at t + 1 + k, and so is that output as the head corrects it, which knows the
text's token at t + 1 + k. A step draws a text and anchors in its answer from the seed and the step's number
alone, and all that was learnt is saved in one file: so a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from pass_edge.native.errors import SettingsError

from .acceptance import Acceptance, acceptance
from .frozen import FrozenModel, Text
from .head import DraftHead

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int, float, Acceptance | None], None]
"""Told after every step: its number, the number of steps, the loss in nats, the last measured acceptance."""

STATE = "lookahead.pt"
_SAVE_EVERY = 50
_CANDIDATES = 8192  # tokens that a draft is trained among: the most frequent in the answers
_DECAY = 0.8  # what a depth's loss weighs against that of the depth before
_WARM_UP = 20  # steps
_HEAD_LR = 0.1  # of that of the rows
_BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Trained:
    """What was learnt: ``embeddings`` (L, n_embd); ``prefix`` (P, n_embd); ``head``, None or its weights
    "gate", "up" (width, 2 · n_embd) and "down" (n_embd, width); all float32. ``losses``: (steps,) nats.
    ``measured``: (step, acceptance on the held-out texts), the last of them of what is here."""

    embeddings: Floats
    prefix: Floats
    head: dict[str, Floats] | None
    losses: Floats
    measured: tuple[tuple[int, Acceptance], ...]

    @property
    def acceptance(self) -> Acceptance:
        return self.measured[-1][1]


def train_lookahead(
    model: str | Path | FrozenModel,
    texts: Sequence[Text],
    held_out: Sequence[Text],
    folder: Path,
    *,
    count: int = 4,
    prefix: int = 0,
    head_width: int = 0,
    start: Floats | None = None,
    steps: int,
    anchors: int = 128,
    lr: float = 0.02,
    seed: int = 0,
    measure_every: int = 500,
    progress: Progress = lambda step, steps, loss, measured: None,
) -> Trained:
    """Train ``count`` embeddings, ``prefix`` rows and a head of ``head_width`` (0: none) on ``texts``, going
    on from what ``folder`` holds. ``start``: (count, n_embd) embeddings to begin with, else those of frequent
    tokens. ``anchors``: in each text and step. ``lr``: of the rows, in units of the size of the model's own.
    Under `accelerate launch` every process has its own text at a step. Raises SettingsError, ModelError."""
    accelerator = Accelerator()
    frozen = model if isinstance(model, FrozenModel) else FrozenModel(model, accelerator.device)
    texts, held_out = ([text for text in some if _room(text, count) > 0] for some in (texts, held_out))
    if not texts or not held_out:
        raise SettingsError(f"there are no answers of more than {count} tokens to train on, or to measure on")
    candidates = _frequent(texts, frozen)
    student = _Student.new(frozen, candidates, count, prefix, head_width, start, seed)
    learner = _Learner(
        accelerator, student, frozen.embed(candidates).square().mean().sqrt().item(), lr, steps
    )
    asked = [
        count,
        prefix,
        head_width,
        steps,
        anchors,
        lr,
        seed,
        measure_every,
        *map(_digest, (texts, held_out)),
    ]
    run = _Run(folder / STATE, learner, [*asked, None if start is None else _sha256(start)])
    while run.step < steps:
        batch = _batch(
            texts, run.step * accelerator.num_processes + accelerator.process_index, anchors, count, seed
        )
        run.losses.append(learner.step(run.step, frozen, candidates, *batch))
        run.step += 1
        if run.step % measure_every == 0 or run.step == steps:
            run.measured.append((run.step, student.acceptance(frozen, held_out)))
        if run.step % _SAVE_EVERY == 0 or run.step % measure_every == 0 or run.step == steps:
            run.save()
        progress(run.step, steps, run.losses[-1], run.measured[-1][1] if run.measured else None)
    return student.trained(run)


class _Student(nn.Module):
    """All that learns."""

    def __init__(self, embeddings: torch.Tensor, prefix: torch.Tensor, head: DraftHead | None) -> None:
        super().__init__()
        self.embeddings, self.prefix = nn.Parameter(embeddings), nn.Parameter(prefix)
        self.head = head

    @classmethod
    def new(
        cls,
        frozen: FrozenModel,
        candidates: torch.Tensor,
        count: int,
        prefix: int,
        head_width: int,
        start: Floats | None,
        seed: int,
    ) -> _Student:
        if start is not None and start.shape != (count, frozen.n_embd):
            raise SettingsError(
                f"the embeddings to start from are {start.shape}, not {(count, frozen.n_embd)}"
            )
        drawn = np.random.default_rng([seed, 0]).integers(min(len(candidates), 512), size=count + prefix)
        rows = frozen.embed(candidates[torch.from_numpy(drawn).to(candidates.device)]).clone()
        if start is not None:
            rows[:count] = torch.from_numpy(start)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = DraftHead(frozen.n_embd, head_width) if head_width else None
        return cls(rows[:count].clone(), rows[count:].clone(), head)

    def forward(
        self, frozen: FrozenModel, candidates: torch.Tensor, text: Text, anchors: torch.Tensor
    ) -> torch.Tensor:
        """The loss: Kullback-Leibler divergence to the model's own distributions, nats a draft."""
        reading = frozen.read(text.ids)
        drafted = anchors[:, None] + torch.arange(1, len(self.embeddings) + 1, device=anchors.device)
        with torch.no_grad():
            teacher = frozen.logits(reading.hidden[text.prompt :]).log_softmax(-1)[:, candidates]
        teacher = teacher[drafted - text.prompt]
        drafts = frozen.look_ahead(reading, anchors, self.embeddings, self.prefix)
        loss = self._loss(frozen, candidates, drafts, teacher)
        if self.head is None:
            return loss
        corrected = self.head(drafts, frozen.embed(reading.ids[drafted]))
        return loss + self._loss(frozen, candidates, corrected, teacher)

    @staticmethod
    def _loss(
        frozen: FrozenModel, candidates: torch.Tensor, states: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        draft = frozen.logits(states, candidates).log_softmax(-1)
        divergence = (teacher.exp() * (teacher - draft)).sum(-1).mean(0)
        weights = _DECAY ** torch.arange(len(divergence), device=divergence.device)
        return (divergence * weights).sum() / weights.sum()

    def acceptance(self, frozen: FrozenModel, held_out: Sequence[Text]) -> Acceptance:
        return acceptance(frozen, held_out, self.embeddings, self.prefix, self.head)

    def trained(self, run: _Run) -> Trained:
        def array(parameter: torch.Tensor) -> Floats:
            return parameter.detach().cpu().numpy().copy()

        names = ("gate", "up", "down")
        head = {name: array(getattr(self.head, name).weight) for name in names} if self.head else None
        losses = np.array(run.losses, np.float32)
        return Trained(array(self.embeddings), array(self.prefix), head, losses, tuple(run.measured))


class _Learner:
    """The optimizer, in all processes. ``size``: root mean square of the model's own rows."""

    def __init__(
        self, accelerator: Accelerator, student: _Student, size: float, lr: float, steps: int
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": [student.embeddings, student.prefix], "lr": lr * size},
            {"params": list(student.head.parameters()) if student.head else [], "lr": lr * _HEAD_LR},
        ]
        self.student = student
        self._accelerator, self._steps = accelerator, steps
        self._rates = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], betas=_BETAS, weight_decay=0
        )
        self._module, self.optimizer = accelerator.prepare(student, optimizer)

    def step(self, number: int, *batch: Any) -> float:
        warm = min(1.0, (number + 1) / _WARM_UP)
        cooling = 0.5 + 0.5 * math.cos(math.pi * number / self._steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate * warm * cooling
        loss = self._module(*batch)
        self.optimizer.zero_grad()
        self._accelerator.backward(loss)
        self.optimizer.step()
        return float(self._accelerator.reduce(loss.detach(), "mean"))

    def save(self, state: dict[str, Any], path: Path) -> None:
        """Write ``state`` to ``path``, which holds either the old or the new one whenever the power fails."""
        if not self._accelerator.is_main_process:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


class _Run:
    """How far training has come, on disk and in memory."""

    def __init__(self, path: Path, learner: _Learner, asked: list[Any]) -> None:
        """Raises SettingsError if what ``path`` holds was trained with other settings or texts."""
        self._path, self._learner, self._asked = path, learner, asked
        self.step = 0
        self.losses: list[float] = []
        self.measured: list[tuple[int, Acceptance]] = []
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["asked"] != asked:
                raise SettingsError(
                    f"{path} is of a training with other settings or texts; remove it, or use another folder"
                )
            self.step, self.losses = state["step"], state["losses"]
            self.measured = [(step, Acceptance.of(numbers)) for step, numbers in state["measured"]]
            learner.student.load_state_dict(state["student"])
            learner.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        learner = self._learner
        state = {
            "asked": self._asked,
            "step": self.step,
            "losses": self.losses,
            "measured": [(step, measured.numbers()) for step, measured in self.measured],
            "student": learner.student.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
        }
        learner.save(state, self._path)


def _room(text: Text, count: int) -> int:
    """How many anchors a text has: its prompt's last token, to the last with ``count`` tokens behind it."""
    return len(text.ids) - count - (text.prompt - 1)


def _batch(
    texts: Sequence[Text], index: int, anchors: int, count: int, seed: int
) -> tuple[Text, torch.Tensor]:
    epoch, place = divmod(index, len(texts))
    text = texts[np.random.default_rng([seed, 1, epoch]).permutation(len(texts))[place]]
    room = _room(text, count)
    drawn = np.random.default_rng([seed, 2, index]).permutation(room)[:anchors]
    return text, torch.from_numpy(np.sort(drawn) + text.prompt - 1)


def _frequent(texts: Sequence[Text], frozen: FrozenModel) -> torch.Tensor:
    answers = np.concatenate([text.ids[text.prompt :] for text in texts])
    counts = np.bincount(answers, minlength=frozen.n_vocab)
    return torch.from_numpy(np.argsort(-counts, kind="stable")[:_CANDIDATES].copy()).to(frozen.device)


def _digest(texts: Sequence[Text]) -> str:
    def numbers() -> Iterator[npt.NDArray[np.int32]]:
        for text in texts:
            yield np.array([text.prompt, len(text.ids)], np.int32)
            yield text.ids

    return _sha256(np.concatenate(list(numbers())))


def _sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
