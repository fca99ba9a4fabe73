"""Costs of passes in which drafts are nearly free, or each row costs as much as a pass."""

from __future__ import annotations

import numpy as np

from pass_edge.planning.cost_model import StepCosts


def flat(*_: object) -> StepCosts:
    """Costs of a machine where drafting is nearly free."""
    return StepCosts(np.array([1.0, 32.0]), np.array([0.010, 0.011]), np.zeros(2))


def steep(*_: object) -> StepCosts:
    """Costs of a machine where every row costs as much as the first."""
    return StepCosts(np.array([1.0, 32.0]), np.array([0.010, 0.320]), np.zeros(2))
