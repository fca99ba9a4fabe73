"""The schedule that counts: each pass decodes the tree that is worth most, given what passes cost here.

With λ the pace (tokens a second that decoding makes anyway), a pass of the root and a draft is worth

    1 + Σ chances of the draft's nodes - λ · T(rows)    tokens,

and the best pace in the long run is had by taking the most worth at every pass (renewal reward;
docs/planner.md). For n drafted tokens, the n likeliest nodes are the best ones, and they always are a tree.
Nothing is drafted where nothing is worth its rows, so a pass is never planned to be worse than a plain one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .cells import MAX_ROWS
from .chances import Chances, head_kind, ngram_kind
from .costs import StepCosts
from .drafter import Drafter
from .experience import Experience, Worth
from .ngrams import NgramIndex
from .sampling import Distribution
from .schedules import Passed
from .tree import NO_DRAFT, Draft, DraftTree

_REMEMBERED = 0.97
"""Of the pace, at each pass: it follows the text within some thirty."""
_UNLIKELY = 0.5
"""Where drafts must be right more often than that to pay, heads begin as a source that did not."""
FEW_SIZES = (1, 2, 4, 8, 16, 32)
"""Nodes of trees where a pass like the last one is cheaper: llama.cpp keeps that one's graph, and CUDA
records it when it comes again."""
_REPLANNED = 8
"""Passes for which prices hold: depth, costs and pace move slowly, and numpy between passes is not free."""


class Planner:
    """A Schedule. Drafts come from ``drafter``, where passes leave it something to draft from, and from the
    conversation itself. Not thread-safe."""

    def __init__(
        self,
        costs: StepCosts,
        drafter: Drafter | None = None,
        group: int = 0,
        *,
        experience: Experience | None = None,
        quotes: bool = True,
        most: int = MAX_ROWS,
        sizes: Sequence[int] = (),
    ) -> None:
        """No pass is wider than ``costs`` know. ``group``: lookahead tokens that may follow a node;
        ``experience``: shared with other conversations, if it is; ``quotes``: whether the conversation
        itself is drafted from; ``most``: tokens drafted in a pass; ``sizes``: how many nodes trees may have
        that are not the largest, if not any number."""
        self._costs, self._quotes, self._most, self._sizes = costs, quotes, most, sizes
        self._drafter = drafter or Drafter(0)
        self.needs_hidden = self._drafter.heads is not None
        self._index = NgramIndex()
        self._experience = experience or Experience(looks=may_look_ahead(costs))
        self._group, self._looks = group, 0
        self._pace = Pace()
        self._plan = _Plan(costs.at(0)[: most + 1], self._pace, sizes=sizes)
        self._passes = 0
        self._draft = NO_DRAFT
        self._expected: list[tuple[int, int, Chances]] = []

    def begin(self, tokens: Sequence[int]) -> None:
        if self._quotes:
            self._index.become(tokens)
        self._draft, self._looks, self._expected = NO_DRAFT, 0, []
        self._passes = 0
        self._pace = Pace()

    def tree(self, root: int, depth: int) -> DraftTree:
        return self._draft.below(root, self._looks)

    def learn(self, passed: Passed) -> None:
        began = time.perf_counter()
        chances = self._experience.at(passed.sampler.sampling.temperature)
        self._costs.observe(passed.rows, passed.depth, passed.seconds, 1 / passed.sharing)
        self._see(passed.new, chances)
        if self._passes % _REPLANNED == 0 or passed.sharing != self._plan.sharing:
            seconds = self._costs.at(passed.depth + len(passed.new))
            others = min(passed.others, len(seconds) - 1)
            seconds = seconds[others : others + self._most + 1]
            self._plan = _Plan(seconds, self._pace, passed.sharing, self._sizes)
        self._passes += 1
        plan = self._plan
        branches = _Branches()
        self._quote(branches, plan, chances, passed.rule)
        # by the rejection rule a node's children come from one distribution, so from one source
        may_think = not (passed.rule == "rejection" and branches)
        if len(passed.outcome.logits):
            seconds = self._costs.at(passed.depth)
            paid = seconds[passed.rows - 1] - seconds[passed.rows - 1 - sum(passed.tree.lookahead)]
            gained = self._think(branches, plan, chances.lookahead, passed) if may_think else 0.0
            self._experience.looking.settle(gained - paid)
        elif may_think and self.needs_hidden and plan.least < 1:
            asked = self._experience.thinking(plan.sharing, rarely=plan.least > _UNLIKELY)
            if asked.opens():
                asked.settle(self._think(branches, plan, chances.hidden, passed))
        self._looks = self._group if self._group and self._experience.looking.opens() else 0
        self._draft = plan.best(branches.draft(), self._looks)
        elapsed = passed.seconds + time.perf_counter() - began
        self._pace.count(len(passed.new) + passed.sharing - 1, elapsed)

    def _see(self, new: Sequence[int], chances: Worth) -> None:
        """Compare what was expected to what came."""
        for (token, kind, source), came in zip(self._expected, new, strict=False):
            source.observe(kind, token == came)
            if token != came:
                break
        self._expected = []
        for came in new if self._quotes else ():
            for token, length, before in self._index.continuation(1):
                chances.ngrams.observe(ngram_kind(length, before), token == came)
            self._index.append(came)

    def _quote(self, branches: _Branches, plan: _Plan, chances: Worth, rule: str) -> None:
        """What the conversation says comes next."""
        node, chance = 0, 1.0
        for token, length, before in self._index.continuation(plan.most):
            chance *= chances.ngrams.of(ngram_kind(length, before))
            if chance < plan.least:
                return
            proposal = Distribution(np.array([token]), np.ones(1)) if rule == "rejection" else None
            node = branches.add(node, token, chance, proposal)

    def _think(self, branches: _Branches, plan: _Plan, chances: Chances, passed: Passed) -> float:
        """What lookahead tokens and heads say comes next; returns the seconds that it gains or loses."""
        began = asked = time.perf_counter()
        without = plan.worth(branches.draft())
        node, chance = 0, 1.0
        position = passed.next_position
        for depth, ahead in enumerate(
            self._drafter.ahead(
                passed.outcome, passed.new[-1], passed.sampler, position, passed.history, passed.rule
            )
        ):
            kind = head_kind(depth, ahead.given)
            self._expected.append((ahead.token, kind, chances))
            right = chances.of(kind)
            self._experience.foresee(depth, right)
            chance *= right
            if chance < plan.least:
                break
            node = branches.add(node, ahead.token, chance, ahead.proposal)
            # a further token takes as long as this one to draft, and is worth what such were lately
            now = time.perf_counter()
            if chance * self._experience.foreseen(depth + 1) - plan.least < plan.pace * (now - asked):
                break
            asked = now
        gained = (plan.worth(branches.draft()) - without) / plan.pace
        return gained - (time.perf_counter() - began)


class _Branches:
    """A draft that grows: what two sources say alike is one node."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._chances: list[float] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._proposals: dict[int, Distribution] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, parent: int, token: int, chance: float, proposal: Distribution | None) -> int:
        """The node of ``token`` below ``parent``, drawn from ``proposal``."""
        number = self._numbers.get((parent, token))
        if number is not None:
            self._chances[number - 1] = max(self._chances[number - 1], chance)
            return number
        self._tokens.append(token)
        self._parents.append(parent)
        self._chances.append(chance)
        self._numbers[parent, token] = len(self._tokens)
        if proposal:
            self._proposals[parent] = proposal
        return len(self._tokens)

    def draft(self) -> Draft:
        return Draft(tuple(self._tokens), tuple(self._parents), tuple(self._chances), self._proposals)


class _Plan:
    """What drafts are worth in the next pass, which ``sharing`` conversations share."""

    def __init__(self, seconds: np.ndarray, pace: Pace, sharing: int = 1, sizes: Sequence[int] = ()) -> None:
        """``seconds`` (n,): of passes with 1, 2, … n rows of this conversation, and what others take besides:
        a row's price is what it adds to theirs. ``sizes``: as the Planner's."""
        self.sharing = sharing
        self.pace = max(pace.tokens_per_second, sharing / seconds[0])
        self._prices: list[float] = (self.pace * (seconds - seconds[0])).tolist()
        self.most = len(seconds) - 1
        self._counts: Collection[int] = (
            {*(size - 1 for size in sizes), self.most} if sizes else range(1, len(seconds))
        )
        """How many nodes may be drafted, if any are."""
        self.least = min((self._prices[n] / n for n in self._counts if 0 < n <= self.most), default=1.0)
        """A draft pays in no company if its chance is less."""

    def _best(self, draft: Draft, looks: int = 0) -> tuple[float, int]:
        """What the likeliest nodes are worth, and how many of them are worth most, with ``looks`` lookahead
        tokens at each and at the root."""
        prices = self._prices[looks :: looks + 1]
        best, count, hoped = -prices[0], 0, 0.0
        for n, chance in enumerate(sorted(draft.chances, reverse=True)[: len(prices) - 1], 1):
            hoped += chance
            if hoped - prices[n] > best and n in self._counts:
                best, count = hoped - prices[n], n
        return best, count

    def worth(self, draft: Draft) -> float:
        """Tokens that the best part of ``draft`` gains over none."""
        return self._best(draft)[0]

    def best(self, draft: Draft, looks: int) -> Draft:
        """The part of ``draft`` that is worth most."""
        return draft.best(self._best(draft, looks)[1]) if draft.tokens else NO_DRAFT


@dataclass
class Pace:
    """Tokens a second lately, of all conversations that share passes, as if the others drafted nothing."""

    tokens: float = 0.0
    seconds: float = 0.0

    def count(self, tokens: int, seconds: float) -> None:
        self.tokens = self.tokens * _REMEMBERED + tokens
        self.seconds = self.seconds * _REMEMBERED + seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def may_look_ahead(costs: StepCosts) -> bool:
    """Whether lookahead tokens could pay here at all: a pass that verifies one draft and has a lookahead
    token at both nodes must cost less than two plain ones."""
    seconds = costs.at(0)
    return len(seconds) > 3 and bool(seconds[3] < 2 * seconds[0])
