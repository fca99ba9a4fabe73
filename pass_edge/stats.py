"""What a generation cost and gained: passes, tokens, acceptance by depth, times."""

from __future__ import annotations

from dataclasses import dataclass, field

from pass_edge.decoding.session import Step


@dataclass
class Stats:
    """Counts of one generation. ``drafted[d]`` and ``accepted[d]``: passes whose draft reached depth
    d + 1, and those whose draft was right up to there. Times in seconds; ``seconds`` runs from the
    first step (after the prompt) to the last."""

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
        """Add one pass; ``tokens`` is counted where they are emitted."""
        self.passes += 1
        self.model_seconds += step.model_seconds
        self.drafting_seconds += step.drafting_seconds
        grow = step.drafted - len(self.drafted)
        self.drafted += [0] * grow
        self.accepted += [0] * grow
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
        """Share of drafts that were right up to each depth."""
        return [right / tried for right, tried in zip(self.accepted, self.drafted, strict=True) if tried]

    @property
    def accepted_share(self) -> float | None:
        """Share of drafted depths that were right; None where nothing was drafted."""
        return sum(self.accepted) / sum(self.drafted) if self.drafted else None
