"""Compare choosing the candidates of a row on the host and on the device, by llama.cpp's backend samplers.

    python benchmarks/candidates.py --model MODEL.gguf

Measures milliseconds of passes over 1, 2, 4 and 8 rows, with the choice of a greedy token from each row.
Either all logits are copied to the host and numpy takes the largest; or the device picks the 64 best of each
row, and only these are copied. Both ways alternate; the minimum of all rounds counts. If the candidates are
not the same to the bit, it ends with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import numpy.typing as npt
from answers import table

from pass_edge import Settings
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.library import llama
from pass_edge.native.model import Model
from pass_edge.planning.pass_times import IN_A_ROW, read_text
from pass_edge.settings import context_settings, with_fitting_layers

WIDTHS = (1, 2, 4, 8)
DEPTH = 256
CANDIDATES = 64
"""More than the default top-k of 40."""

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Token ids and their logits."""


class ChoosingContext(Context):
    """A context that picks the candidates of each row of sequence 0 on the device."""

    def __init__(self, model: Model, settings: object) -> None:
        parameters = llama.llama_context_default_params()
        parameters.n_outputs_max_per_seq = 0  # no limit; the default is one
        with patch.object(llama, "llama_context_default_params", lambda: parameters):
            super().__init__(model, settings)  # type: ignore[arg-type]
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(
            self._chain, llama.llama_sampler_init_top_k(min(CANDIDATES, model.n_vocab))
        )
        llama.llama_set_sampler(self._handle, 0, self._chain)

    def candidates(self, count: int) -> list[Row]:
        """Return the candidates of each of the last decode's first ``count`` outputs."""
        return [self._row(i) for i in range(count)]

    def _row(self, i: int) -> Row:
        count = llama.llama_get_sampled_candidates_count_ith(self._handle, i)
        if not count:
            raise click.ClickException("this device has no top-k")
        tokens = llama.llama_get_sampled_candidates_ith(self._handle, i)
        logits = llama.llama_get_sampled_logits_ith(self._handle, i)
        return np.ctypeslib.as_array(tokens, (count,)), np.ctypeslib.as_array(logits, (count,))

    def close(self) -> None:
        super().close()
        if self._chain:
            llama.llama_sampler_free(self._chain)
            self._chain = None


def measured(path: Path, rounds: int) -> Iterator[dict[str, list[float]]]:
    """Yield, after each round, the milliseconds at each of WIDTHS by the side that chooses."""
    cells = 2 * DEPTH
    settings = with_fitting_layers(Settings(context_size=cells), path)
    with ExitStack() as opened:
        model = opened.enter_context(Model(path, gpu_layers=settings.gpu_layers or 0))
        for_context = context_settings(model, settings, cells)
        host = opened.enter_context(Context(model, for_context))
        device = ChoosingContext(model, for_context)
        opened.enter_context(device)
        sides: dict[str, Callable[[int], float]] = {
            "host": lambda width: _pass(host, width, lambda: host.logits(width).argmax(axis=1)),
            "device": lambda width: _pass(
                device,
                width,
                lambda: [tokens[logits.argmax()] for tokens, logits in device.candidates(width)],
            ),
        }
        read_text(host, 0, DEPTH)
        device.restore_sequence(0, host.save_sequence(0))
        minimum = {side: [float("inf")] * len(WIDTHS) for side in sides}
        for _ in range(rounds):
            for i, width in enumerate(WIDTHS):
                for side, seconds_of in sides.items():
                    seconds = min(seconds_of(width) for _ in range(IN_A_ROW))
                    minimum[side][i] = min(minimum[side][i], 1000 * seconds)
                _check(host, device, width)
            yield minimum


def report(milliseconds: dict[str, list[float]]) -> str:
    """Return a table of the results of ``measured``."""
    rows = [[side, *(f"{value:.2f}" for value in values)] for side, values in milliseconds.items()]
    return table(["chosen by the", *(f"{width} rows" for width in WIDTHS)], rows)


def _pass(context: Context, width: int, choose: Callable[[], object]) -> float:
    """Return the seconds of a pass over ``width`` rows, and of choosing a token from each."""
    context.remove(0, DEPTH)
    rows, tokens = rows_of_sequence(DEPTH, width, outputs=width), np.arange(width, dtype=np.int32)
    start = time.perf_counter()
    context.decode_tokens(rows, tokens)
    choose()
    return time.perf_counter() - start


def _check(host: Context, device: ChoosingContext, width: int) -> None:
    """Raise ClickException if the device's candidates are not the host's after decoding the same rows."""
    for (tokens, logits), all_logits in zip(device.candidates(width), host.logits(width), strict=True):
        best = np.sort(all_logits)[: -CANDIDATES - 1 : -1]
        if (all_logits[tokens] != logits).any() or (np.sort(logits)[::-1] != best).any():
            raise click.ClickException("the device picks other candidates than the host")


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A GGUF file.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
def main(model: Path, rounds: int) -> None:
    *_, milliseconds = measured(model, rounds)
    click.echo(report(milliseconds))


if __name__ == "__main__":
    main()
