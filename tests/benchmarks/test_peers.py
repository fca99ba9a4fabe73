"""The comparison with rivals: its tables follow from the answers."""

from __future__ import annotations

from pathlib import Path

from answers import Answer, Job, rotated
from peers import enabled
from peers_report import Entrant, Round, Run, begin_alike, library_table, ratio_table, report

BASES = {
    "server": "server",
    "server ngram": "server",
    "ours: plain": "ours: plain",
    "ours: auto": "ours: plain",
}


def run_of(*rounds: tuple[str, tuple[float, ...]]) -> Run:
    """Rates in the order of ``BASES``."""
    return Run(
        Job(Path("model.gguf"), tokens=9, threads=2, temperature=0.0),
        [Entrant(name, base, "its defaults", NotImplemented) for name, base in BASES.items()],
        [
            Round(category, {n: Answer(rate, 9, 5, "text") for n, rate in zip(BASES, rates, strict=True)})
            for category, rates in rounds
        ],
        ["a note"],
    )


def cells(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_each_category_names_its_best_rival_and_who_is_ahead() -> None:
    run = run_of(("math", (100, 110, 100, 121)), ("rag", (100, 90, 100, 80)))
    rows = cells(ratio_table(run))
    assert rows["math"] == ["1.00", "1.10", "1.00", "1.21", "server ngram", "yes, 1.10 times"]
    assert rows["rag"] == ["1.00", "0.90", "1.00", "0.80", "server", "no, 0.80 times"]
    assert rows["**mean over categories**"][:4] == ["**1.00**", "**1.00**", "**1.00**", "**1.00**"]
    assert rows["**mean over categories**"][-1].startswith("**1 of 2**")


def test_ratios_are_taken_question_by_question() -> None:
    run = run_of(*(("qa", (rate, 2 * rate, rate, 3 * rate)) for rate in (1, 50, 900)))
    assert cells(ratio_table(run))["qa"][1] == "2.00 (2.00–2.00)"


def test_each_library_is_measured_against_its_own_plain_decoding() -> None:
    rows = cells(library_table(run_of(("qa", (50, 100, 200, 300)))))
    assert rows["server ngram"][:3] == ["2.00", "1 of 1", "1 of 1"]
    assert rows["ours: auto"][0] == "1.50"


def test_texts_are_alike_as_far_as_both_go() -> None:
    one, longer, other = (Answer(1, 9, 5, text) for text in ("It is", "It is so", "It was"))
    assert begin_alike(one, longer)
    assert begin_alike(longer, one)
    assert not begin_alike(longer, other)


def test_a_report_of_what_was_done_before_an_interruption() -> None:
    text = report(run_of(("qa", (50, 100, 200, 300))))
    assert "1 question, at most 9 tokens" in text
    assert "- ours: auto: its defaults" in text
    assert text.endswith("- a note\n")


def test_everyone_goes_first_once() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(3)] == ["a", "b", "c"]


def test_what_a_build_was_compiled_for() -> None:
    assert enabled("CPU : SSE3 = 1 | AVX512 = 0 | REPACK = 1 | ") == {"SSE3", "REPACK"}
