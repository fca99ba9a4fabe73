"""The measurement on a GPU, rehearsed without one: pieces join, models decode, projections add up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import candidates
import gpu
import gpu_measurements
import numpy as np
import pytest
from click import ClickException
from gpu_run import Run
from llama_calls import calls_of_steps, counted
from projection import projections, shares, speed_up
from random_llama import FILE_TYPES, SHAPES, write_random_llama

from pass_edge import Engine, Sampling, Settings
from pass_edge.decoding.session import Step
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.model import Model
from pass_edge.planning.pass_times import pass_times
from pass_edge.planning.planner import GPU_TREE_SIZES
from pass_edge.stats import Stats
from tests.support.lookaheads import lookahead_for, random_head
from tests.support.pass_costs import flat


def packed(folder: Path) -> dict[str, bytes]:
    """Three files, split into parts of 2 MiB in ``folder``; what is in them."""
    rng = np.random.default_rng(0)
    contents = {f"{name}.whl": rng.bytes(size) for name, size in (("a", 10), ("b", 5 << 20), ("c", 2 << 20))}
    whole = folder / "whole"
    whole.mkdir()
    for name, content in contents.items():
        (whole / name).write_bytes(content)
    files = sorted(whole.iterdir())
    parts = gpu.split(files, folder, 2 << 20)
    listing = "".join(f"{gpu.sha256(file)}  {file.name}\n" for file in files)
    for part in parts:
        assert sum(piece.stat().st_size for piece in part.iterdir()) <= 2 << 20
        (part / "SHA256SUMS").write_text(listing)
    return contents


def test_what_is_split_joins_again(tmp_path: Path) -> None:
    contents = packed(tmp_path)
    gpu.join(tmp_path, tmp_path / "joined")
    assert {file.name: file.read_bytes() for file in (tmp_path / "joined").iterdir()} == contents


def test_a_missing_part_is_noticed(tmp_path: Path) -> None:
    packed(tmp_path)
    next(tmp_path.glob("part-*/b.whl.001")).unlink()
    with pytest.raises(SystemExit, match=r"b\.whl is incomplete"):
        gpu.join(tmp_path, tmp_path / "joined")


@pytest.mark.parametrize("shape", ["0.02B", "0.02B-experts"])
@pytest.mark.parametrize("file_type", list(FILE_TYPES))
def test_random_weights_give_sane_logits(file_type: str, shape: str, tmp_path: Path) -> None:
    path = write_random_llama(tmp_path / "random.gguf", SHAPES[shape], file_type)
    with Model(path, repack=False) as model, Context(model, ContextSettings(cells=64)) as context:
        context.decode_tokens(rows_of_sequence(0, 8, outputs=8), np.arange(8, dtype=np.int32))
        logits = context.logits(8)
        assert 0.3 < logits.std() < 3


def run(deadline: float = float("inf")) -> Run:
    return Run(deadline, Path(), [1, 2, 4], [0], 1, 1, given=[0.5, 0.25])


# -- the projection -------------------------------------------------------------------------------


def test_the_projection_is_the_best_chain() -> None:
    # one draft: 1.5 tokens for 1.2 times the price; two drafts: 1.75 for 1.3 times (between 2 and 4 rows)
    found = projections({"0": [10.0, 12.0, 14.0]}, run().widths, run().acceptance)["0"]
    assert found["head"] == pytest.approx(1.75 / 1.3, abs=1e-3)
    assert found["fused"] == pytest.approx(1.5 / 1.4, abs=1e-3)


def decoded(drafts: int, seed: int, passes: int = 20_000) -> Stats:
    """Pass by pass through a text with easy and hard stretches: one draft's luck tells of the next one's."""
    rng, stats = np.random.default_rng(seed), Stats()
    easy, left = False, 0
    right: list[bool] = []  # whether drafts of the tokens to come are right
    for _ in range(passes):
        while len(right) <= drafts:
            if not left:
                easy, left = not easy, int(rng.integers(1, 12))
            right.append(bool(rng.random() < (0.9 if easy else 0.1)))
            left -= 1
        accepted = [*right[:drafts], False].index(False)
        stats.count(Step((0,) * (accepted + 1), drafts, 0.0, 0.0, ()))
        stats.tokens += accepted + 1
        del right[: accepted + 1]
    return stats


@pytest.mark.parametrize("drafts", [1, 2, 4])
def test_the_projection_is_what_decoding_gains(drafts: int) -> None:
    right = shares([decoded(4, seed=1), decoded(4, seed=2)])
    costs = {1: 10.0, drafts + 1: 11.0}  # wider passes are not known, so this is the best chain
    projected = speed_up(right, costs, lambda k: k + 1)
    gained = decoded(drafts, seed=3).tokens_per_pass * 10 / 11
    if drafts == 4:
        assert projected == pytest.approx(gained, rel=0.02)
    else:  # shorter chains than counted end less often at hard places, so that passes begin at better ones
        assert 0.9 * gained < projected < gained


# -- what steps call ------------------------------------------------------------------------------


def test_calls_of_llama_cpp_are_counted(tiny_path: Path) -> None:
    with Engine(tiny_path, settings=Settings(schedule="plain", threads=1)) as engine:
        called = calls_of_steps(engine, [1, 2, 3], 100)
        assert called["decodes_per_step"] == called["waits_per_step"] == 1
        assert called["graphs_reused"] == 1, "what grows is not noticed before 256 cells"
        assert 0 < called["host_share"] < 1
        context = engine.session._context
        with counted() as calls:
            for width in (1, 2, 2, 3):
                pass_times(context, len(engine.session.tokens), [width], in_a_row=2)
        assert calls.decodes == calls.waits
        assert calls.decodes - calls.graphs_reused == 2, "each new width makes a graph, once"


def test_the_time_of_heads_is_told_apart(tiny_path: Path) -> None:
    lookahead = lookahead_for(tiny_path, rows=False, hidden_head=random_head(4))
    settings = Settings(schedule="head", draft_max=3, threads=1)
    with Engine(tiny_path, lookahead=lookahead, settings=settings) as engine:
        called = calls_of_steps(engine, [1, 2, 3], 50)
    assert 0 < called["of_it_heads"] < called["host_share"] < 1


def test_on_a_gpu_trees_have_few_sizes(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
    lookahead = lookahead_for(tiny_path, rows=False, hidden_head=random_head(4))
    rows: dict[bool, set[int]] = {}
    for gpu_is_used in (False, True):
        monkeypatch.setattr("pass_edge.engine_setup.draft_sources.on_gpu", lambda _, used=gpu_is_used: used)
        with (
            Engine(tiny_path, lookahead=lookahead, settings=Settings(threads=1)) as engine,
            counted() as calls,
        ):
            engine.stream([1, 2, 3, 1, 2], sampling=Sampling(temperature=0.5, seed=1), max_tokens=300).run()
        rows[gpu_is_used] = set(calls.rows)
    assert {1} < rows[True] <= set(GPU_TREE_SIZES)
    assert not rows[False] <= set(GPU_TREE_SIZES)


def test_candidates_are_the_same_whoever_picks_them(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "CANDIDATES", 5)  # of 12 tokens
    (found,) = candidates.measured(tiny_path, rounds=1)
    assert set(found) == {"host", "device"}
    assert all(0 < value < 1e5 for values in found.values() for value in values)
    honest = candidates.ChoosingContext.candidates
    monkeypatch.setattr(
        candidates.ChoosingContext,
        "candidates",
        lambda self, count: [(tokens[::-1], logits) for tokens, logits in honest(self, count)],
    )
    with pytest.raises(ClickException, match="other candidates"):
        list(candidates.measured(tiny_path, rounds=1))


# -- the time -------------------------------------------------------------------------------------


def test_what_time_does_not_allow_is_left_out_and_told() -> None:
    late, failing = run(time.time() + 5), run()
    late.stage("long", 60, lambda: iter(()))
    failing.stage("broken", 1, lambda: ({}["nothing"] for _ in "x"))
    assert "60 s" in late.left_out["long"]
    assert "KeyError" in failing.left_out["broken"]


def test_a_stage_is_stopped_at_the_deadline_and_keeps_what_it_knows() -> None:
    reports: list[tuple[float, dict[str, object]]] = []

    def endless() -> Iterator[dict[str, int]]:
        yield {"known": 1}
        while True:
            time.sleep(0.01)

    began, some = time.time(), run(time.time() + 0.5)
    some.report = lambda: reports.append((time.time() - began, dict(some.results)))
    some.stage("endless", 0, endless)
    some.stage("too late", 0, endless)
    assert 0.4 < time.time() - began < 5
    assert some.results == {"endless": {"known": 1}}
    assert set(some.left_out) == {"endless", "too late"}
    told, first = reports[0]
    assert told < 0.4, "what is known is told at once"
    assert first == some.results


def test_what_does_not_stop_is_killed_with_all_it_started(tmp_path: Path) -> None:
    began, mark = time.time(), tmp_path / "mark"
    with pytest.raises(subprocess.TimeoutExpired):
        gpu.run_until(began + 0.3, ["sh", "-c", f"(sleep 1; touch {mark}) & sleep 60"])
    assert time.time() - began < 30
    time.sleep(1)
    assert not mark.exists()


def test_the_report_is_there_when_the_time_is_over(speaking_path: Path, tmp_path: Path) -> None:
    """Measuring all of this would take minutes: alone the weights of 3B do."""
    program = Path(gpu_measurements.__file__)
    much = ["--depths", "256,2048", "--shapes", "0.02B,3B", "--questions", "1000", "--tokens", "1000"]
    began = time.time()
    subprocess.run(
        [
            sys.executable,
            program,
            "--out",
            tmp_path,
            "--scratch",
            tmp_path,
            "--deadline",
            str(began + 22),
            *much,
        ],
        check=True,
    )
    assert time.time() - began < 37
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert told["results"]
    assert told["left_out"]
    assert "## Left out" in (tmp_path / "gpu.md").read_text()
    assert not list(tmp_path.glob("random-*"))
