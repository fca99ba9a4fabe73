"""The settings of a training: what to make and how. Nothing here imports torch, so a command can read the
defaults."""

from __future__ import annotations

from dataclasses import dataclass

from pass_edge.native.errors import SettingsError

from .prompts import SHAREGPT

STAGES = ("text", "lookahead", "head", "hidden", "measure")
"""The stages of a training in order (see training.py)."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Raises SettingsError if they contradict each other.

    ``prompts``, ``held_out``: sources as in prompts.read_prompts; without ``held_out``, the first prompts are
    held out. ``also``: work folders of other trainings of this model with the same held-out prompts, whose
    text is learned from too. ``answers``, ``held_out_answers``: how many answers to learn from and to measure
    on. ``max_tokens``, ``max_prompt``: most tokens of an answer and of its prompt. ``learn_prompts``: learn
    from the tokens of the prompts too. ``start``: a sidecar to
    begin with: its lookahead embeddings, and its heads if they have the same widths. ``lookahead``,
    ``prefix``: rows of each. ``head_width``, ``hidden_width``: widths of the heads on lookahead outputs (if
    there are any) and on hidden states; 0 leaves one out. ``candidates``: how many tokens the heads
    score. ``steps``: for lookahead and prefix rows; ``head_steps``: for each head; ``head_lr``: the
    learning rate; ``head_depth``: how many drafted tokens in a row heads learn.
    """

    prompts: str = SHAREGPT
    held_out: str | None = None
    also: tuple[str, ...] = ()
    answers: int = 1280
    held_out_answers: int = 64
    max_tokens: int = 256
    max_prompt: int = 640
    learn_prompts: bool = False
    start: str | None = None
    lookahead: int = 0
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
        if not self.lookahead and self.prefix:
            raise SettingsError("a prefix needs lookahead embeddings")
        if not self.lookahead and not self.hidden_width:
            raise SettingsError("there is nothing to train: neither lookahead embeddings nor a hidden head")
        if self.also and not self.held_out:
            raise SettingsError("with --also, name the prompts to measure on with --held-out")
