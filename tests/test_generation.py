"""A generation tells drafted text apart, and its text is the same however it is read."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pass_edge.decoding.session import Step
from pass_edge.decoding.slots import SlotPool
from pass_edge.generation import Generation, Piece
from pass_edge.sampling.sampler import Sampler, Sampling

END = 0


class Bytes:
    """A vocabulary in which a token is a byte, and 0 the end."""

    has_text = True

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END


class Scripted:
    """A session whose passes are known: each a draft that was accepted and the token chosen behind it."""

    def __init__(self, passes: Sequence[tuple[bytes, bytes]]) -> None:
        self._steps = [Step((*draft, *chosen), len(draft), 0.0, 0.0, ()) for draft, chosen in passes]

    def shared_with(self, tokens: Sequence[int]) -> int:
        return 0

    def prefill(self, tokens: Sequence[int], wanted: object) -> int:
        return 0

    def step(self, sampler: Sampler) -> Step:
        return self._steps.pop(0)


def generation(*passes: tuple[bytes, bytes], max_tokens: int = 99, stop: tuple[str, ...] = ()) -> Generation:
    return Generation(
        SlotPool([Scripted(passes)]),  # type: ignore[list-item]
        Bytes(),  # type: ignore[arg-type]
        [1],
        Sampler(Sampling()),
        max_tokens=max_tokens,
        limit_reason="length",
        stop=stop,
        logprobs=None,
    )


PASSES = ((b"", b"a"), (b"bc", b"d"), (b"\xc3", b"\xa9"), (b"e\xc3", b"\xa8"), (b"fg", b"\0"))


def test_pieces_tell_drafted_text_apart() -> None:
    assert list(generation(*PASSES).pieces()) == [
        Piece("", "a"),
        Piece("bc", "d"),
        Piece("", "é"),  # certain only with its second byte, which was not drafted
        Piece("e", "è"),
        Piece("fg", ""),
    ]


@pytest.mark.parametrize(("limit", "stop"), [(99, ()), (3, ()), (6, ()), (99, ("cd",)), (99, ("f",))])
def test_iteration_gives_the_same_text(limit: int, stop: tuple[str, ...]) -> None:
    by_pieces = generation(*PASSES, max_tokens=limit, stop=stop)
    told = "".join(piece.text for piece in by_pieces.pieces())
    plain = generation(*PASSES, max_tokens=limit, stop=stop)
    assert "".join(plain) == told == plain.text == by_pieces.text
    assert (plain.ids, plain.finish_reason) == (by_pieces.ids, by_pieces.finish_reason)


def test_the_text_is_what_was_given_out_so_far() -> None:
    cut_short = generation(*PASSES)
    given = ""
    for piece in cut_short.pieces():
        given += piece.text
        assert cut_short.text == given


def test_one_that_is_left_goes_on_where_it_was() -> None:
    whole = generation(*PASSES).run().text
    left = generation(*PASSES)
    told = ""
    while left.finish_reason is None:
        told += next(iter(left), "")
    assert told + "".join(left) == left.text == whole
