"""Statistics of a generation: tokens, passes, acceptance by depth, times."""

from __future__ import annotations

from dataclasses import dataclass, field

from pass_edge.decoding.session import Step


@dataclass
class Stats:
    """Counts and times of one generation.

    ``drafted[d]``: passes whose draft reached depth d + 1. ``accepted[d]``: passes whose draft was right up
    to that depth. Times are in seconds; ``seconds`` runs from the first step, after the prompt, to the last.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    passes: int = 0
    prompt_seconds: float = 0.0
    seconds: float = 0.0
    model_seconds: float = 0.0
    drafting_seconds: float = 0.0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def count(self, step: Step) -> None:
        """Add one pass. ``tokens`` is not changed: tokens are counted when they are emitted."""
        self.passes += 1
        self.model_seconds += step.model_seconds
        self.drafting_seconds += step.drafting_seconds
        new_depths = step.drafted - len(self.drafted)
        self.drafted += [0] * new_depths
        self.accepted += [0] * new_depths
        for depth in range(step.drafted):
            self.drafted[depth] += 1
            self.accepted[depth] += depth < len(step.tokens) - 1

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes if self.passes else 0.0

    @property
    def acceptance(self) -> list[float]:
        """By depth, the share of drafts that were right up to it."""
        pairs = zip(self.accepted, self.drafted, strict=True)
        return [accepted / drafted for accepted, drafted in pairs if drafted]

    @property
    def accepted_share(self) -> float | None:
        """The share of drafted depths that were right; None if nothing was drafted."""
        return sum(self.accepted) / sum(self.drafted) if self.drafted else None
