"""A training run: optimizer steps, in one process or many, all of it on disk so that it can be killed.

Whatever a step draws, it draws from the seed and the step's number alone; so a run that was killed goes on as
if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from pass_edge.native.errors import SettingsError

from .acceptance import Measured, Shares

Progress = Callable[[int, int, float, Measured], None]
"""Told after every step: its number, the number of steps, the loss in nats, the last measured acceptance."""

_SAVE_EVERY = 50
_WARM_UP = 20  # steps
_BETAS = (0.9, 0.98)


class Run:
    """A student that learns, and how far it has come. Attributes: ``step``; ``losses`` (nats); ``measured``:
    pairs of a step and the acceptance there; ``process``, ``processes``: which of how many this one is."""

    def __init__(
        self,
        path: Path,
        student: nn.Module,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        weight_decay: float = 0.0,
        steps: int,
        asked: Sequence[Any],
        accelerator: Accelerator,
    ) -> None:
        """``student``: its forward pass gives the loss. ``groups``: parameters and their learning rates.
        Goes on from ``path`` if it is there; raises SettingsError if that was ``asked`` something else."""
        self.student, self.steps = student, steps
        self.process, self.processes = accelerator.process_index, accelerator.num_processes
        self.step = 0
        self.losses: list[float] = []
        self.measured: list[tuple[int, Measured]] = []
        self._path, self._asked, self._accelerator = path, [*asked, steps], accelerator
        kept = [(list(parameters), rate) for parameters, rate in groups if list(parameters)]
        self._rates = [rate for _, rate in kept]
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for parameters, rate in kept],
            betas=_BETAS,
            weight_decay=weight_decay,
        )
        self._module, self._optimizer = accelerator.prepare(student, optimizer)
        if path.exists():
            self._restore(torch.load(path, map_location="cpu", weights_only=True))

    def go(
        self,
        batch: Callable[[int], tuple[Any, ...]],
        measure: Callable[[], Measured],
        measure_every: int,
        progress: Progress,
    ) -> None:
        """Take all steps that are left. ``batch`` gives what the student's forward pass takes, for a number
        that no other step of any process has."""
        while self.step < self.steps:
            self.losses.append(self._learn(batch(self.step * self.processes + self.process)))
            self.step += 1
            measuring = self.step % measure_every == 0 or self.step == self.steps
            if measuring:
                self.measured.append((self.step, measure()))
            if measuring or self.step % _SAVE_EVERY == 0:
                self._save()
            progress(self.step, self.steps, self.losses[-1], self.measured[-1][1] if self.measured else {})
        if not self.measured:  # nothing is to be learnt, only to be told
            self.measured.append((self.step, measure()))
            self._save()

    def _learn(self, batch: tuple[Any, ...]) -> float:
        warm = min(1.0, (self.step + 1) / _WARM_UP)
        cooling = 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * warm * cooling
        torch.manual_seed(self.step * self.processes + self.process)  # for dropout
        loss = self._module(*batch)
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._optimizer.step()
        return float(self._accelerator.reduce(loss.detach(), "mean"))

    def _restore(self, state: dict[str, Any]) -> None:
        if state["asked"] != self._asked:
            raise SettingsError(
                f"{self._path} is of a training with other settings or texts; remove it, or use another one"
            )
        self.step, self.losses = state["step"], state["losses"]
        self.measured = [
            (step, {name: Shares(**shares) for name, shares in measured.items()})
            for step, measured in state["measured"]
        ]
        self.student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _save(self) -> None:
        """Write all to ``path``, which holds either the old or the new whenever the power fails."""
        if not self._accelerator.is_main_process:
            return
        state = {
            "asked": self._asked,
            "step": self.step,
            "losses": self.losses,
            "measured": [
                (step, {name: vars(shares) for name, shares in measured.items()})
                for step, measured in self.measured
            ],
            "student": self.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


def is_finished(path: Path) -> bool:
    """Whether ``path`` is of a run that has taken all its steps."""
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    return bool(state["step"] == state["asked"][-1])


def digest(*arrays: npt.NDArray[Any]) -> str:
    """SHA-256 over ``arrays``: tells other texts apart."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
