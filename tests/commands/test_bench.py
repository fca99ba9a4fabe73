"""pass-edge bench: both schedules on the same prompts, and a report that adds up."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pexpect
import pytest
from click.testing import CliRunner, Result

import pass_edge.commands.bench as bench_command
from pass_edge import Engine, LibraryError, Sampling, Settings
from pass_edge.__main__ import main
from pass_edge.commands.bench_comparison import Answer, Comparison, CostCurve, Figures, Pair, compare
from pass_edge.commands.bench_report import verdict
from pass_edge.native.quantize import quantize
from pass_edge.native.stock_llama import StockAnswer, StockLlama
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.stats import Stats

GREEDY = Sampling(temperature=0)
PROMPTS = [[1, 2, 3], [4, 5, 6, 4, 5], [7, 8]]


@pytest.fixture(scope="module")
def engines(tiny_path: Path) -> Iterator[tuple[Engine, Engine]]:
    with Engine(tiny_path, settings=Settings(schedule="plain")) as plain, Engine(tiny_path) as auto:
        yield plain, auto


@pytest.fixture(scope="module")
def comparison(engines: tuple[Engine, Engine]) -> Comparison:
    curve = CostCurve.of(engines[1])
    return Comparison(tuple(compare(*engines, PROMPTS, sampling=GREEDY, max_tokens=80)), curve)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Prompts of ids, because the tiny model has no tokenizer."""
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(" ".join(map(str, ids)) for ids in PROMPTS))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


# -- measuring ----------------------------------------------------------------------------------------


def test_each_engine_answers_as_it_does_alone(engines: tuple[Engine, Engine], comparison: Comparison) -> None:
    assert len(comparison.pairs) == len(PROMPTS)
    assert not comparison.different
    for ids, pair in zip(PROMPTS, comparison.pairs, strict=True):
        alone = engines[0].stream(ids, sampling=GREEDY, max_tokens=80).run()
        assert list(pair.plain.ids) == alone.ids
        assert pair.plain.stats.passes == pair.plain.stats.tokens
        assert pair.figures.tokens_per_pass >= 1


def test_the_random_texts_are_the_same_too(engines: tuple[Engine, Engine]) -> None:
    sampling = Sampling(temperature=1.5, seed=3)
    pairs = list(compare(*engines, PROMPTS, sampling=sampling, max_tokens=80))
    assert all(pair.same_ids for pair in pairs)
    assert len({pair.plain.ids[:20] for pair in pairs}) == len(PROMPTS)


def test_other_texts_are_told(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "f.gguf", n_vocab=12, n_embd=64, n_head=2, n_ff=128, seed=4)
    quantize(tmp_path / "f.gguf", tmp_path / "other.gguf", "Q8_0")
    with Engine(tmp_path / "other.gguf") as other:
        pairs = tuple(compare(engines[0], other, PROMPTS, sampling=GREEDY, max_tokens=20))
    comparison = Comparison((*pairs[:1], Pair(pairs[1].plain, pairs[1].plain), *pairs[2:]), None)
    assert comparison.different == [1, 3]
    assert "DIFFER in prompt 1, 3" in verdict(comparison)


def test_the_shares_of_the_time_add_up(comparison: Comparison) -> None:
    for name, shares in comparison.time.items():
        parts = dataclasses.astuple(shares)
        assert min(parts) > 0, name
        assert sum(parts) == pytest.approx(1)
    assert comparison.time["auto"].drafting > comparison.time["plain"].drafting


def test_the_curve_is_what_the_engine_counts_on(tiny_path: Path) -> None:
    with Engine(tiny_path, settings=Settings(context_size=500)) as engine:
        curve, costs = CostCurve.of(engine), engine.costs
        assert curve is not None
        assert costs is not None
        assert curve.depths == (0, 250)  # no deeper than the context
        assert curve.rows == tuple(n for n in (1, 2, 3, 4, 8, 16, 32) if n <= costs.widest)
        rows = np.array(curve.rows) - 1
        np.testing.assert_allclose(curve.milliseconds, [1000 * costs.at(d)[rows] for d in curve.depths])
    with Engine(tiny_path, settings=Settings(schedule="plain")) as engine:
        assert CostCurve.of(engine) is None


def test_medians_are_of_each_figure_and_skip_what_is_unknown() -> None:
    def pair(plain: float, auto: float, drafted: int, accepted: int) -> Pair:
        stats = Stats(tokens=10, passes=5, seconds=10 / auto, drafted=[drafted] * 2, accepted=[accepted] * 2)
        if not drafted:
            stats.drafted, stats.accepted = [], []
        stock = StockAnswer((1,) * 11, 1.0, 2.0) if plain != 20 else None
        return Pair(Answer((1,), Stats(tokens=10, passes=10, seconds=10 / plain)), Answer((1,), stats), stock)

    pairs = (pair(10, 30, 4, 1), pair(20, 20, 0, 0), pair(40, 50, 4, 3))
    # of stock's two answers: 30 and 50 to 5
    expected = Figures(5, 20, 30, 8, 1.25, 2, 0.5)
    assert dataclasses.astuple(Comparison(pairs, None).medians) == pytest.approx(
        dataclasses.astuple(expected)
    )
    assert Comparison(pairs[1:2], None).medians.accepted_share is None


def test_stock_answers_in_a_process_of_its_own(engines: tuple[Engine, Engine], tiny_path: Path) -> None:
    with StockLlama(tiny_path, threads=1, context_size=200) as stock:
        assert 0 < stock.load_seconds < 60
        assert stock.resident > tiny_path.stat().st_size
        assert stock.pass_seconds(10, repeats=3) > 0
        answer = stock.answer([1, 2, 3], max_tokens=5, temperature=0)
        assert len(answer.ids) == 5
        assert answer.ids == stock.answer([1, 2, 3], max_tokens=5, temperature=0).ids
        assert answer.tokens_per_second == pytest.approx(4 / answer.seconds)
        pairs = list(compare(*engines, PROMPTS, sampling=GREEDY, max_tokens=9, stock=stock))
        for pair in pairs:
            assert pair.stock is not None
            assert pair.figures.stock_ratio == pytest.approx(
                pair.figures.auto_tokens_per_second / pair.stock.tokens_per_second
            )
        with pytest.raises(LibraryError, match="llama_decode"):
            stock.answer([1] * 300, max_tokens=1, temperature=0)
    with pytest.raises(LibraryError, match="ended"):
        stock.answer([1], max_tokens=1, temperature=0)


def test_a_model_that_stock_cannot_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF")
    with pytest.raises(LibraryError, match=r"llama_cpp\.Llama: Failed to load"):
        StockLlama(tmp_path / "no.gguf", threads=1, context_size=64)


def test_they_take_turns_in_going_first(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for engine in engines:
        prefill = engine.session.prefill
        name = engine.settings.schedule
        monkeypatch.setattr(
            engine.session, "prefill", lambda *given, f=prefill, n=name: (order.append(n), f(*given))[1]
        )
    list(compare(*engines, PROMPTS, sampling=GREEDY, max_tokens=2))
    assert order == ["plain", "auto", "auto", "plain", "plain", "auto"]


# -- the command --------------------------------------------------------------------------------------


def test_the_json_has_everything(tiny_path: Path, questions: Path) -> None:
    done = run(tiny_path, "--prompts", questions, "--tokens", 40, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["model"] == tiny_path.name
    assert (report["tokens"], report["temperature"], report["seed"]) == (40, 0, 0)
    assert report["schedule"] == "auto"
    assert report["interrupted"] is False
    assert report["same_ids"] is True
    assert [each["prompt"] for each in report["prompts"]] == questions.read_text().splitlines()
    for each in report["prompts"]:
        assert each["same_ids"] is True
        assert 0 < each["tokens"] <= 40
        speeds = (each[f"{name}_tokens_per_second"] for name in ("stock", "plain", "auto"))
        stock, plain, auto = speeds
        assert each["ratio"] == pytest.approx(auto / plain)
        assert each["stock_ratio"] == pytest.approx(auto / stock)
    for name, middle in report["medians"].items():
        known = [each[name] for each in report["prompts"] if each[name] is not None]
        assert middle == (pytest.approx(np.median(known)) if known else None)
    assert set(report["time"]) == {"plain", "auto"}
    passes = report["passes"]
    assert passes["depths"] == [0, 250, 1000]
    assert np.shape(passes["milliseconds"]) == (3, len(passes["rows"]))
    assert np.min(passes["milliseconds"]) > 0


def test_the_tables_can_be_read_and_the_plot_is_made(
    tiny_path: Path, questions: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "out.png"
    arguments = (tiny_path, "--prompts", questions, "--tokens", 8, "--plot", plot)
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    words = ("4 5 6 4 5", "median", "after 1,000 tokens", "as fast as stock llama.cpp", "same texts, id for")
    for word in words:
        assert word in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "questions.txt"]
    again = run(*arguments)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert run(*arguments, "--force").exit_code == 0


def test_what_cannot_be_is_one_sentence_before_anything_is_measured(
    tiny_path: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "long.txt").write_text("1 2\n" + "3 " * 80)
    for word, arguments in (
        ("no file", (tmp_path / "missing.gguf",)),
        ("cannot be read", (tiny_path, "--prompts", tmp_path / "missing.txt")),
        ("no prompts in", (tiny_path, "--prompts", tmp_path / "empty.txt")),
        ("has 80 tokens", (tiny_path, "--prompts", tmp_path / "long.txt", "-c", 64)),
        ("no tokenizer", (tiny_path,)),
        ("must end in .png", (tiny_path, "--plot", tmp_path / "out.jpeg")),
        ("temperature", (tiny_path, "--temp", -1)),
    ):
        done = run(*arguments)
        assert done.exit_code == 2, done.output
        assert [word in line for line in done.stderr.splitlines() if line.startswith("Error:")] == [True]
        assert done.stdout == ""
        assert "answering" not in done.stderr
    monkeypatch.setattr(bench_command, "find_spec", lambda name: name != "matplotlib" and find_spec(name))
    done = run(tiny_path, "--prompts", questions, "--plot", tmp_path / "out.png")
    assert done.exit_code == 2
    assert "a plot needs matplotlib" in done.stderr


def test_ctrl_c_ends_it_with_what_is_done(tiny_path: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.txt"
    many.write_text("\n".join(f"{a} {b} {c}" for a in range(12) for b in range(12) for c in range(12)))
    arguments = ["-m", "pass_edge", "bench", str(tiny_path), "--prompts", str(many), "--tokens", "400"]
    child = pexpect.spawn(sys.executable, arguments, encoding="utf-8", timeout=120, dimensions=(40, 120))
    try:
        child.expect("times stock")
        child.sendintr()
        child.expect("median")
        child.expect("same texts, id for id")
        child.expect(r"Interrupted after \d+ of 1728 prompts")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 130
    finally:
        child.close(force=True)
