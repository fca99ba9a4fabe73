"""Questions of the dev prompts, from all their categories."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

PROMPTS = Path(__file__).parents[2] / "benchmarks" / "prompts" / "spec_bench_dev.jsonl"


def spread_questions(count: int) -> list[str]:
    """``count`` first turns of the dev prompts, taken in turn from every category, the longest of
    each category first, then the shortest, and so on."""
    by_category = defaultdict(list)
    for line in PROMPTS.read_text().splitlines():
        question = json.loads(line)
        by_category[question["category"]].append(question["turns"][0])
    for questions in by_category.values():
        questions.sort(key=len)
    chosen: list[str] = []
    while len(chosen) < count:
        end = -1 if len(chosen) // len(by_category) % 2 == 0 else 0
        chosen += [questions.pop(end) for questions in by_category.values() if questions]
    return chosen[:count]
