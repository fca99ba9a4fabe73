"""The schedule that counts: each pass decodes the tree that is worth most, given what passes cost here.

With λ the pace (tokens a second that decoding makes anyway), a pass of the root and a draft is worth

    1 + Σ chances of the draft's nodes - λ · T(rows)    tokens,

and the best pace in the long run is had by taking the most worth at every pass (renewal reward;
docs/planner.md). For n drafted tokens, the n likeliest nodes are the best ones, and they always are a tree.
Nothing is drafted where nothing is worth its rows, so a pass is never planned to be worse than a plain one.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Sequence

import numpy as np

from pass_edge.drafting.drafter import Drafter, DraftToken
from pass_edge.drafting.ngrams import NgramContinuations, NgramIndex
from pass_edge.drafting.schedules import StepResult
from pass_edge.drafting.tree import NO_DRAFT, DraftTree
from pass_edge.sampling.sampler import Distribution
from pass_edge.settings import MAX_ROWS

from .acceptance import AcceptanceRates, head_bucket, ngram_bucket
from .cost_model import StepCosts
from .draft_statistics import AcceptanceEstimates, DraftStatistics
from .tree_selection import DraftBuilder, Throughput, TreeSelector

_UNLIKELY = 0.5
"""Where drafts must be right more often than that to pay, heads begin as a source that did not."""
_HEAD = 0.1
"""About what part of a pass a head takes."""
FEW_SIZES = (1, 2, 4, 8, 16, 32)
"""Nodes of trees where a pass like the last one is cheaper: llama.cpp keeps that one's graph, and CUDA
records it when it comes again."""
_REPLANNED = 8
"""Passes for which prices hold: depth, costs and pace move slowly, and numpy between passes is not free."""


_Waiting = tuple[float, int, int, int | None, NgramContinuations]
"""A node that may be drafted: less its chance, what orders those of one chance, the node above, its token
(None: the root) and what may follow it."""


class Planner:
    """A Schedule. Drafts come from ``drafter``, where passes leave it something to draft from, and from the
    conversation itself. Not thread-safe."""

    def __init__(
        self,
        costs: StepCosts,
        drafter: Drafter | None = None,
        group: int = 0,
        *,
        experience: DraftStatistics | None = None,
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
        self._experience = experience or DraftStatistics(looks=may_look_ahead(costs))
        self._group, self._looks = group, 0
        self._pace = Throughput()
        self._plan = TreeSelector(costs.at(0)[: most + 1], self._pace, sizes=sizes)
        self._passes = 0
        self._draft = NO_DRAFT
        self._expected: list[tuple[AcceptanceRates, dict[int, int]]] = []

    def begin(self, tokens: Sequence[int]) -> None:
        if self._quotes:
            self._index.become(tokens)
        self._draft, self._looks, self._expected = NO_DRAFT, 0, []
        self._passes = 0
        self._pace = Throughput()

    def tree(self, root: int, depth: int) -> DraftTree:
        return self._draft.below(root, self._looks)

    def learn(self, passed: StepResult) -> None:
        began = time.perf_counter()
        chances = self._experience.at(passed.sampler.sampling.temperature)
        self._costs.observe(passed.rows, passed.depth, passed.seconds, 1 / passed.sharing)
        self._see(passed.new, chances)
        if self._passes % _REPLANNED == 0 or passed.sharing != self._plan.sharing:
            seconds = self._costs.at(passed.depth + len(passed.new))
            others = min(passed.others, len(seconds) - 1)
            seconds = seconds[others : others + self._most + 1]
            switching = self._costs.switching if passed.sharing == 1 else 0.0
            self._plan = TreeSelector(seconds, self._pace, passed.sharing, self._sizes, switching)
        self._passes += 1
        plan = self._plan
        plan.drafted = len(passed.tree.tokens) - 1
        branches = DraftBuilder()
        self._draft_ngrams(branches, plan, chances, passed.rule)
        # by the rejection rule a node's children come from one distribution, so from one source
        may_think = not (passed.rule == "rejection" and branches)
        if len(passed.outcome.logits):
            seconds = self._costs.at(passed.depth)
            paid = seconds[passed.rows - 1] - seconds[passed.rows - 1 - sum(passed.tree.lookahead)]
            gained = self._draft_heads(branches, plan, chances.lookahead, passed) if may_think else 0.0
            self._experience.looking.settle(gained - paid)
        elif may_think and self.needs_hidden and plan.least[0] < 1:
            asked = self._experience.thinking(
                plan.sharing, branches.likeliest, rarely=plan.least[0] > _UNLIKELY
            )
            if asked.opens():
                asked.settle(self._draft_heads(branches, plan, chances.hidden, passed))
        self._looks = self._group if self._group and self._experience.looking.opens() else 0
        self._draft = plan.best(branches.draft(), self._looks, passed.new[-1])
        elapsed = passed.seconds + time.perf_counter() - began
        self._pace.count(len(passed.new) + passed.sharing - 1, elapsed)

    def _see(self, new: Sequence[int], chances: AcceptanceEstimates) -> None:
        """Compare what was expected to what came."""
        for (source, kinds), came in zip(self._expected, new, strict=False):
            for token, kind in kinds.items():
                source.observe(kind, token == came)
            if came != next(iter(kinds)):  # what was expected further on was so behind another token
                break
        self._expected = []
        for came in new if self._quotes else ():
            for token, length, others, _ in self._index.ahead():
                chances.ngrams.observe(ngram_bucket(length, others), token == came)
            self._index.append(came)

    def _draft_ngrams(
        self, branches: DraftBuilder, plan: TreeSelector, chances: AcceptanceEstimates, rule: str
    ) -> None:
        """What the conversation says comes next, the likeliest first, as long as one more may pay."""
        by_rejection = rule == "rejection"
        order = itertools.count()
        begin: _Waiting = (-1.0, next(order), 0, None, self._index.ahead())
        waiting = [begin]
        for drafted in range(plan.most + 1):
            if not waiting or -waiting[0][0] < plan.least[max(0, drafted - 1)]:
                return
            chance, _, node, token, quoting = heapq.heappop(waiting)
            if token is not None:
                proposal = Distribution(np.array([token]), np.ones(1)) if by_rejection else None
                node = branches.add(node, token, -chance, proposal)
            for token, length, others, behind in quoting:
                likely = chance * chances.ngrams.of(ngram_bucket(length, others))
                heapq.heappush(waiting, (likely, next(order), node, token, behind))
                if by_rejection:  # a proposal of one token has no others
                    break

    def _draft_heads(
        self, branches: DraftBuilder, plan: TreeSelector, chances: AcceptanceRates, passed: StepResult
    ) -> float:
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
            hopes = {token: chance * right for token, right in self._foretell(depth, ahead, chances).items()}
            nodes = {
                token: branches.add(node, token, hope, ahead.proposal)
                for token, hope in hopes.items()
                if hope >= plan.least[0]
            }
            if ahead.token not in nodes:
                break
            node, chance = nodes[ahead.token], hopes[ahead.token]
            # a further token takes as long as this one to draft, and is worth what such were lately
            now = time.perf_counter()
            if chance * self._experience.foreseen(depth + 1) - plan.least[0] < plan.pace * (now - asked):
                break
            asked = now
        gained = (plan.worth(branches.draft()) - without) / plan.pace
        return gained - (time.perf_counter() - began)

    def _foretell(self, depth: int, ahead: DraftToken, chances: AcceptanceRates) -> dict[int, float]:
        """The chances of what may stand at ``depth`` if all before is right; what comes is compared to it."""
        kinds = {ahead.token: head_bucket(depth, ahead.given)}
        kinds |= {token: head_bucket(depth, given, other=True) for token, given in ahead.others}
        self._expected.append((chances, kinds))
        self._experience.foresee(depth, chances.of(kinds[ahead.token]))
        return {token: chances.of(kind) for token, kind in kinds.items()}


def may_look_ahead(costs: StepCosts, *, has_head: bool = False) -> bool:
    """Whether lookahead tokens could pay here at all: a pass that verifies one draft and has a lookahead
    token at both nodes must cost less than two plain ones; where a head on hidden states drafts too
    (``has_head``), little more than without these, because the head takes no row."""
    seconds = costs.at(0)
    if len(seconds) < 4:
        return False
    return bool(seconds[3] < (seconds[1] + _HEAD * seconds[0] if has_head else 2 * seconds[0]))
