"""A training run: optimizer steps, in one process or several, with all its state saved to disk.

Random numbers of a step depend on the seed and the step's number alone. So a run that was killed resumes with
the same result.
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

from .acceptance import Acceptance, AcceptanceBySource

StepProgress = Callable[[int, int, float, AcceptanceBySource], None]
"""Progress callback after every step: its number, the number of steps, the loss in nats, the last
acceptance."""

_SAVE_EVERY = 50
_WARM_UP = 20  # steps
_BETAS = (0.9, 0.98)


class Run:
    """The training of one module. Attributes: ``step``: steps done; ``losses``: in nats; ``measured``: pairs
    of a step and the acceptance after it; ``process``, ``processes``: this process's index and their
    number."""

    def __init__(
        self,
        path: Path,
        student: nn.Module,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        weight_decay: float = 0.0,
        steps: int,
        settings: Sequence[Any],
        accelerator: Accelerator,
    ) -> None:
        """Resume from ``path`` if it exists. ``student``: the module; its forward pass returns the loss.
        ``groups``: parameters and their learning rates. ``settings``: values that identify the training;
        raises SettingsError if those in ``path`` differ."""
        self.student, self.steps = student, steps
        self.process, self.processes = accelerator.process_index, accelerator.num_processes
        self.step = 0
        self.losses: list[float] = []
        self.measured: list[tuple[int, AcceptanceBySource]] = []
        self._path, self._settings, self._accelerator = path, [*settings, steps], accelerator
        used = [(list(parameters), rate) for parameters, rate in groups if list(parameters)]
        self._rates = [rate for _, rate in used]
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for parameters, rate in used],
            betas=_BETAS,
            weight_decay=weight_decay,
        )
        self._module, self._optimizer = accelerator.prepare(student, optimizer)
        if path.exists():
            self._restore(torch.load(path, map_location="cpu", weights_only=True))

    def train(
        self,
        batch: Callable[[int], tuple[Any, ...]],
        measure: Callable[[], AcceptanceBySource],
        measure_every: int,
        progress: StepProgress,
    ) -> None:
        """Run all remaining steps. ``batch``: returns the arguments of the student's forward pass for a batch
        number, which is unique among the steps of all processes."""
        while self.step < self.steps:
            self.losses.append(self._learn(batch(self.step * self.processes + self.process)))
            self.step += 1
            measuring = self.step % measure_every == 0 or self.step == self.steps
            if measuring:
                self.measured.append((self.step, measure()))
            if measuring or self.step % _SAVE_EVERY == 0:
                self._save()
            progress(self.step, self.steps, self.losses[-1], self.measured[-1][1] if self.measured else {})
        if not self.measured:  # a run of no steps
            self.measured.append((self.step, measure()))
            self._save()

    def _learn(self, batch: tuple[Any, ...]) -> float:
        warm_up = min(1.0, (self.step + 1) / _WARM_UP)
        decay = 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * warm_up * decay
        torch.manual_seed(self.step * self.processes + self.process)  # for dropout and noise
        loss = self._module(*batch)
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._optimizer.step()
        return float(self._accelerator.reduce(loss.detach(), "mean"))

    def _restore(self, state: dict[str, Any]) -> None:
        if state["asked"] != self._settings:
            raise SettingsError(
                f"{self._path} is of a training with other settings or texts; remove it, or use another one"
            )
        self.step, self.losses = state["step"], state["losses"]
        self.measured = [
            (step, {source: Acceptance(**fields) for source, fields in measured.items()})
            for step, measured in state["measured"]
        ]
        self.student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _save(self) -> None:
        """Replace ``path`` by the current state, atomically even if the power fails."""
        if not self._accelerator.is_main_process:
            return
        state = {
            "asked": self._settings,  # the names of keys must not change: work folders of users have them
            "step": self.step,
            "losses": self.losses,
            "measured": [
                (step, {source: vars(acceptance) for source, acceptance in measured.items()})
                for step, measured in self.measured
            ],
            "student": self.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        with new.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def is_finished(path: Path) -> bool:
    """Return whether ``path`` is the state of a run that has done all its steps."""
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    return bool(state["step"] == state["asked"][-1])


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Return SHA-256 over ``arrays``, which identifies their contents."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
