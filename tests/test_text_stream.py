"""Text arrives complete: no broken characters, nothing of a stop string, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pass_edge.text_stream import TextStream


class Bytes:
    """A vocabulary in which a token is a byte."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([token])


def run(text: bytes, stop: list[str]) -> tuple[str, str, list[str]]:
    stream = TextStream(Bytes(), stop)  # type: ignore[arg-type]
    pieces = []
    for token in text:
        pieces.append(stream.feed(token))
        if stream.stop_string:
            break
    pieces.append(stream.finish())
    return "".join(pieces), stream.stop_string, pieces


@given(text=st.text(), stop=st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_everything_before_the_first_stop_string_and_nothing_after(text: str, stop: list[str]) -> None:
    got, stop_string, _ = run(text.encode(), stop)
    # the string whose end comes first wins, as it does when text arrives byte by byte
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    first_end = min((end for end, _ in ends), default=None)
    starts = [start for end, start in ends if end == first_end]
    assert stop_string == (text[min(starts) : first_end] if ends else "")
    assert got == (text[: min(starts)] if ends else text)


def test_a_character_appears_once_it_is_whole() -> None:
    _, _, pieces = run("aé🦙".encode(), [])
    assert pieces == ["a", "", "é", "", "", "", "🦙", ""]


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    assert run(b"ok\xf0\x9f", [])[0] == "ok\ufffd"
