"""Markdown as it streams looks the same however it was cut into pieces, and loses no word."""

from __future__ import annotations

from io import StringIO
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from pass_edge.commands.terminal.markdown import Markdown

BOLD, ITALIC, CODE, DRAFTED, END = "\x1b[1m", "\x1b[3m", "\x1b[33m", "\x1b[36m", "\x1b[0m"


def shown(*pieces: str, width: int = 40, styled: bool = False, drafted: bool = False) -> str:
    out = StringIO()
    console = Console(
        file=out, width=width, force_terminal=styled, color_system="standard" if styled else None
    )
    markdown = Markdown(console, shows_drafts=True)
    for piece in pieces:
        markdown.feed(piece, drafted)
    markdown.finish()
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\ntext", "Title\ntext\n"),
        ("#hashtag", "#hashtag\n"),
        ("- one\n* two\n  + three\n12. four", "• one\n• two\n  • three\n12. four\n"),
        ("-5 degrees, 3.5 metres, 1999", "-5 degrees, 3.5 metres, 1999\n"),
        ("> said", "▌ said\n"),
        ("**bold** *it* ***both*** __b__ _i_ ~~no~~", "bold it both b i no\n"),
        ("snake_case_name 2*3*4 2**3**4 a * b", "snake_case_name 2*3*4 2**3**4 a * b\n"),
        (r"\*not\* C:\dir \\", "*not* C:\\dir \\\n"),
        ("`a * b_c` ``x`y``", "a * b_c x`y\n"),
        ("这是**粗体**文字", "这是粗体文字\n"),
        ("```python\nx = '**'\n\n# y\n```\nafter **b**", "x = '**'\n\n# y\nafter b\n"),
        ("````\n```\n````\nafter", "```\nafter\n"),
        ("```\nnever closed *", "never closed *\n"),
        ("```inline``` code", "inline code\n"),
        ("a\n\n---\nb", "a\n\n" + "─" * 24 + "\nb\n"),
        ("| a | **b** |\n|---|---|", "| a | b |\n|---|---|\n"),
        ("a\\", "a\\\n"),
        ("ends with a newline\n", "ends with a newline\n"),
        ("", ""),
    ],
)
def test_what_is_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_styles() -> None:
    assert shown("**bo**ld", styled=True) == f"{BOLD}bo{END}ld\n"
    assert shown("# *T*", styled=True) == "\x1b[1;3mT\x1b[0m\n"
    assert shown("say `x`", styled=True) == f"say {CODE}x{END}\n"
    assert shown("a **lone\nasterisk", styled=True) == f"a {BOLD}lone{END}\nasterisk\n"


def test_only_drafted_text_has_the_shade() -> None:
    out = StringIO()
    markdown = Markdown(Console(file=out, force_terminal=True, color_system="standard"), shows_drafts=True)
    for piece, drafted in (("one t", False), ("wo thr", True), ("ee", False)):
        markdown.feed(piece, drafted)
    markdown.finish()
    assert out.getvalue() == f"one t{DRAFTED}wo{END}{DRAFTED} {END}{DRAFTED}thr{END}ee\n"


MARKED = st.text(st.sampled_from("ab1 *_`~#->.|\\\n日é。🦙"), max_size=60)


@given(text=MARKED, cuts=st.lists(st.integers(0, 60), max_size=8))
def test_pieces_make_no_difference(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert shown(*pieces, styled=True) == shown(text, styled=True)


@given(text=MARKED)
def test_nothing_but_marks_is_lost(text: str) -> None:
    fenced = "```" in text or "~~~" in text  # the word behind a fence names a language
    letters = [letter for letter in text if letter in "ab1日é。🦙"]
    assert fenced or [letter for letter in shown(text) if letter in "ab1日é。🦙"] == letters


@given(words=st.lists(st.text(st.sampled_from("abcdé日。🦙"), min_size=1, max_size=12), max_size=30))
def test_lines_fit_and_words_stay_whole(words: list[str]) -> None:
    lines = shown("x " + " ".join(words), width=24).splitlines()
    assert all(cell_len(line.rstrip()) <= 24 for line in lines)
    assert all(not line.startswith("。") for line in lines) or any(word.startswith("。") for word in words)
    narrow = [word for word in words if cell_len(word) == len(word)]
    assert all(any(word in line.split(" ") for line in lines) for word in narrow)


def test_a_list_item_hangs_under_its_text() -> None:
    assert shown("- one two three four", width=12) == "• one two \n  three four\n"


def test_a_new_width_holds_from_the_next_line_on() -> None:
    out = StringIO()
    console = Console(file=out, width=20)
    markdown = Markdown(console)
    markdown.feed("one two three four five six ", False)
    console.width = 10
    markdown.feed("seven eight nine ten", False)
    markdown.finish()
    assert out.getvalue() == "one two three four \nfive six \nseven \neight nine\nten\n"
