"""pass-edge train makes a sidecar that drafts from a GGUF file, and resumes whenever it is stopped."""

from __future__ import annotations

import dataclasses
import random
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import pass_edge.commands.train as train_command
from pass_edge import Engine, Sampling, Settings, read_lookahead
from pass_edge.__main__ import main
from pass_edge.convert.training.heads import Anchors, _with_noise, most_likely_tokens, train_head
from pass_edge.convert.training.recipe import Recipe
from pass_edge.convert.training.text import read_texts
from pass_edge.convert.training.training import Training
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model

COMMAND = [sys.executable, "-m", "pass_edge", "train"]
N_VOCAB, HEAD_STEPS = 48, 150
SMALL = {
    "answers": 64,
    "held-out-answers": 8,
    "max-tokens": 32,
    "hidden-width": 64,
    "head-width": 32,
    "head-steps": HEAD_STEPS,
    "lookahead": 2,
    "steps": 60,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of 48 tokens without text, m.gguf, and prompts of ids for it, p.txt."""
    folder = tmp_path_factory.mktemp("train")
    write_tiny_model(folder / "f.gguf", n_vocab=N_VOCAB, n_embd=64, n_head=2, n_ff=128, seed=7)
    quantize(folder / "f.gguf", folder / "m.gguf", "Q8_0")
    rng = np.random.default_rng(0)
    prompts = [" ".join(map(str, rng.integers(0, N_VOCAB, 5 + i % 6))) for i in range(90)]
    (folder / "p.txt").write_text("\n".join(prompts))
    return folder


def arguments(folder: Path, output: Path, **others: object) -> list[str]:
    options = SMALL | {name.replace("_", "-"): value for name, value in others.items()}
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [str(folder / "m.gguf"), "-o", str(output), "--prompts", str(folder / "p.txt"), *named]


def run(folder: Path, output: Path, *more: str, **others: object) -> Result:
    return CliRunner().invoke(main, ["train", *arguments(folder, output, **others), *more])


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The sidecar of one uninterrupted run of the command, with a report beside it."""
    output = folder / "whole.pass.gguf"
    done = run(folder, output, "--report", str(folder / "report.html"))
    assert done.exit_code == 0, done.output
    assert str(output) in done.stdout
    assert "hidden head" in done.stdout
    assert re.search(rf"hidden head: \d+/{HEAD_STEPS} loss .*, accepted .*, speed x \d\.\d\d", done.stderr)
    return output


# -- the sidecar and the report -----------------------------------------------------------------------


def test_training_raises_the_acceptance(folder: Path, trained: Path, tmp_path: Path) -> None:
    lookahead = read_lookahead(trained)
    texts, held_out = (
        read_texts(trained.with_suffix(".training") / name, 64) for name in ("text", "held-out-text")
    )
    anchors = (Anchors.from_hidden_states(some) for some in (texts, held_out))
    settings = {
        "candidates": most_likely_tokens(texts, N_VOCAB),
        "width": 64,
        "steps": 1,
        "lr": Recipe.head_lr,
    }
    untrained = train_head("untrained", folder / "m.gguf", *anchors, tmp_path / "x.pt", **settings)
    before = untrained.measured[-1][1]["untrained"].top_1
    assert np.mean(lookahead.acceptance) > np.mean(before) + 0.3
    assert len(lookahead) == 2
    assert lookahead.hidden_head is not None
    assert f"head-steps {HEAD_STEPS}" in lookahead.training
    assert "p.txt" in lookahead.training
    assert str(folder) not in lookahead.training


def test_a_head_learns_from_noisy_states_and_is_measured_on_clean_ones(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    texts = read_texts(trained.with_suffix(".training") / "text", 64)
    rest = {"candidates": most_likely_tokens(texts, N_VOCAB), "width": 64, "steps": 1, "lr": 0.0}
    runs = [
        train_head(
            "head",
            *(folder / "m.gguf", Anchors.from_hidden_states(texts), Anchors.from_hidden_states(texts[:9])),
            tmp_path / f"{number}.pt",
            **rest,
            dropout=0.0,
            noise=noise,
        )
        for number, noise in enumerate((0.0, 0.5, 0.5))
    ]
    clean, noisy, again = (run.losses[0] for run in runs)
    assert noisy == again != clean
    assert runs[0].measured == runs[1].measured


def test_noise_is_in_proportion_to_each_state() -> None:
    states = torch.randn(64, 256) * torch.logspace(-2, 2, 64)[:, None]
    moved = (_with_noise(states, 0.5) - states).abs() / states.square().mean(-1, keepdim=True).sqrt()
    assert moved.max() <= 0.501
    assert moved.mean(-1).numpy() == pytest.approx(0.25, abs=0.05)


def test_the_engine_drafts_with_the_sidecar_and_keeps_the_text(folder: Path, trained: Path) -> None:
    drafted = 0
    for temperature in (0.0, 0.8):
        sampling = Sampling(temperature=temperature, seed=1)
        answers = {}
        for schedule in ("plain", "head"):
            settings = Settings(schedule=schedule, draft_max=2)
            with Engine(folder / "m.gguf", lookahead=trained, settings=settings) as engine:
                assert engine.schedule == schedule
                answers[schedule] = engine.stream([3, 17, 4, 40], sampling=sampling, max_tokens=60).run()
        assert answers["head"].ids == answers["plain"].ids
        assert answers["head"].stats.passes < answers["plain"].stats.passes
        drafted += answers["head"].stats.acceptance[0] > 0
    assert drafted == 2


def test_the_report_is_one_self_contained_page(folder: Path, trained: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 6  # for each training the loss, and the acceptance of its source
    for word in ("Acceptance of lookahead", "Acceptance of hidden head", "depth 4", str(HEAD_STEPS)):
        assert word in page
    assert "<script" not in page
    assert 'src="' not in page
    share = read_lookahead(trained).acceptance[0]
    assert f"<td>{share:.3f}</td>" in page


def test_existing_embeddings_can_be_kept(folder: Path, trained: Path, tmp_path: Path) -> None:
    more = ("--start", str(trained), "--report", str(tmp_path / "r.html"))
    done = run(folder, tmp_path / "o.pass.gguf", *more, steps=0, hidden_width=0)
    assert done.exit_code == 0, done.output
    kept = read_lookahead(tmp_path / "o.pass.gguf")
    assert kept.embeddings.tobytes() == read_lookahead(trained).embeddings.tobytes()
    assert kept.head is not None
    assert kept.hidden_head is None
    assert (tmp_path / "r.html").read_text().count("<svg") == 3


def test_heads_start_from_those_of_another_file(folder: Path, trained: Path, tmp_path: Path) -> None:
    learnt = np.mean(read_lookahead(trained).acceptance)
    begun = {}
    for name, more in {"anew": (), "on": ("--start", str(trained))}.items():
        done = run(folder, tmp_path / f"{name}.pass.gguf", *more, lookahead=0, head_width=0, head_steps=1)
        assert done.exit_code == 0, done.output
        begun[name] = np.mean(read_lookahead(tmp_path / f"{name}.pass.gguf").acceptance)
    assert begun["on"] > 0.9 * learnt
    assert begun["anew"] < 0.5 * learnt


def test_heads_learn_at_the_given_rate(folder: Path, trained: Path, tmp_path: Path) -> None:
    learnt, gone_on = np.mean(read_lookahead(trained).acceptance), []
    for rate in (1e-9, 1.0):
        output, asked = tmp_path / f"{rate}.pass.gguf", {"head_steps": 20, "head_lr": rate}
        done = run(folder, output, "--start", str(trained), lookahead=0, head_width=0, **asked)
        assert done.exit_code == 0, done.output
        gone_on.append(np.mean(read_lookahead(output).acceptance))
    assert gone_on[0] > 0.98 * learnt  # as good as standing still
    assert gone_on[1] < 0.5 * learnt  # too fast for anything to be kept


def test_a_second_run_repeats_no_work(folder: Path, trained: Path) -> None:
    before = trained.read_bytes()
    refused = run(folder, trained)
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    again = run(folder, trained, "--force", "--stage", "measure")
    assert again.exit_code == 0, again.output
    assert trained.read_bytes() == before
    assert "text:" not in again.stderr
    assert "hidden head:" not in again.stderr


# -- interruptions ------------------------------------------------------------------------------------


def stopped(command: list[str], stage: str, lines: int, delay: float, how: signal.Signals) -> tuple[int, str]:
    """Send a signal ``delay`` seconds after the n-th line about ``stage``. Return exit status and stderr."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr
        stderr = ""
        for line in process.stderr:
            stderr += line
            lines -= line.startswith(f"{stage}: ")
            if not lines:
                time.sleep(delay)
                process.send_signal(how)
                break
        stderr += process.stderr.read()
    return process.returncode, stderr


def test_a_run_killed_at_random_moments_writes_the_same_file(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    rng = random.Random(7)
    command = [*COMMAND, *arguments(folder, tmp_path / "o.pass.gguf")]
    stages = ("text", 2), ("lookahead", 20), ("outputs", 10), ("lookahead + head", 20), ("hidden head", 20)
    for stage, lines in stages:
        moment = rng.randint(1, lines), rng.random() * 0.05
        status, stderr = stopped(command, stage, *moment, signal.SIGKILL)
        assert status == -signal.SIGKILL, stderr
        assert not (tmp_path / "o.pass.gguf").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.pass.gguf").read_bytes() == trained.read_bytes()


@pytest.mark.parametrize("stage", ["text", "hidden head"])
def test_ctrl_c_ends_in_one_sentence(stage: str, folder: Path, tmp_path: Path) -> None:
    command = [
        *COMMAND,
        *arguments(folder, tmp_path / "o.pass.gguf", lookahead=0, head_width=0, head_steps=100_000),
    ]
    status, stderr = stopped(command, stage, 1, 0.1, signal.SIGINT)
    assert status == 130
    assert stderr.splitlines()[-1].startswith("Interrupted; ")
    assert str(tmp_path / "o.pass.training") in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["o.pass.training"]


# -- errors -------------------------------------------------------------------------------------------


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    for word in words:
        assert word in sentence


def test_another_recipe_in_the_same_folder_is_refused(folder: Path, trained: Path, tmp_path: Path) -> None:
    work = str(trained.with_suffix(".training"))
    other = run(folder, tmp_path / "o.pass.gguf", "--work", work, answers=32)
    assert_refused(other, "another training", "answers 64, not 32", "--work")
    (tmp_path / "p.txt").write_text("1 2 3\n")
    more = ("--work", work, "--prompts", str(tmp_path / "p.txt"))
    assert_refused(run(folder, tmp_path / "o.pass.gguf", *more), "another training", "prompts p.txt")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "recipe.json").write_text("[")
    assert_refused(run(folder, tmp_path / "o.pass.gguf", "--work", str(tmp_path / "w")), "is damaged")


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ("", "no prompts"),
        ('{"question": "1 2"}', "line 1"),
        ('"1 2"\n[]', "line 2"),
        (None, "cannot be read"),
    ],
)
def test_a_training_that_cannot_begin_leaves_nothing_behind(
    prompts: str | None, reason: str, folder: Path, tmp_path: Path
) -> None:
    given = tmp_path / "p.jsonl"
    if prompts is not None:
        given.write_text(prompts)
    before = set(tmp_path.iterdir())
    refused = run(folder, tmp_path / "o.pass.gguf", "--prompts", str(given))
    assert_refused(refused, "p.jsonl", reason)
    assert set(tmp_path.iterdir()) == before


def test_the_output_is_checked_before_the_work(folder: Path, tmp_path: Path) -> None:
    assert_refused(run(folder, tmp_path / "nowhere" / "o.pass.gguf"), "no folder", "nowhere")
    assert_refused(run(folder, folder / "m.gguf", "--force"), "made from")
    assert not (tmp_path / "nowhere").exists()


def test_stages_need_the_stages_before_them(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.pass.gguf"
    assert_refused(run(folder, output, "--stage", "hidden"), "no finished stage 'text'")
    made = run(folder, output, "--stage", "text")
    assert made.exit_code == 0, made.output
    assert_refused(run(folder, output, "--stage", "measure"), "no finished stage 'lookahead'")
    assert not output.exists()


def test_prompts_are_held_out_and_counted(folder: Path, tmp_path: Path) -> None:
    prompts = (folder / "p.txt").read_text().splitlines()
    (tmp_path / "held.txt").write_text("\n".join(prompts[5:9]))
    more = ("--held-out", str(tmp_path / "held.txt"), "--stage", "text")
    made = run(folder, tmp_path / "o.pass.gguf", *more)
    assert made.exit_code == 0, made.output
    assert "4 prompts are left out" in made.stderr
    assert re.search(r"the text takes up to \d+ minutes?, and the hidden head about \d+ min", made.stderr)
    texts, held_out = (
        [
            text.ids[: text.prompt_length].tolist()
            for text in read_texts(tmp_path / "o.pass.training" / name, 64)
        ]
        for name in ("text", "held-out-text")
    )
    assert held_out == [[int(word) for word in prompt.split()] for prompt in prompts[5:9]]
    assert len(texts) == 64
    assert not any(text in held_out for text in texts)


def test_bad_input_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "o.pass.gguf"
    none = {"lookahead": 0, "head_width": 0, "hidden_width": 0}
    assert_refused(run(folder, output, **none), "nothing to train")
    assert_refused(run(folder, output, "--prefix", "2", lookahead=0), "needs lookahead embeddings")
    assert_refused(run(folder, output, "--prompts", str(tmp_path / "none.txt")), "none.txt cannot be read")
    assert_refused(run(folder, output, answers=500), "82 prompts that can be used; 500 are asked for")
    assert_refused(run(folder, output, "--work", str(folder / "p.txt")), "cannot be used")
    assert_refused(run(tmp_path, output), "no file")
    assert run(folder, output, head_steps=0).exit_code == 2
    monkeypatch.setattr(train_command, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    assert_refused(run(folder, output), "needs torch", "pip install 'pass-edge[train]'")
    assert not output.exists()


def test_the_help_shows_the_defaults_of_the_recipe() -> None:
    help_texts = {
        option.name: option.help or "" for option in train_command.train.params if hasattr(option, "help")
    }
    for field in dataclasses.fields(Recipe):
        assert field.name in help_texts
        if field.default not in (None, ()) and not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in help_texts[field.name]


def test_the_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from pass_edge.__main__ import main; main()"
    shown = subprocess.run([sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True)
    assert "[default: sharegpt]" in shown.stdout, shown.stderr


def test_the_text_of_another_training_is_also_used(folder: Path, tmp_path: Path) -> None:
    """Texts made in two trainings are used together if the same prompts were held out."""
    held_out = tmp_path / "held.txt"
    held_out.write_text("1 2 3 4 5\n5 4 3 2 1\n")
    first, second = tmp_path / "first", tmp_path / "second.pass.gguf"
    text = ["--stage", "text", "--held-out", str(held_out), "--work", str(first)]
    small = {"answers": 32, "lookahead": 0, "head_width": 0, "head_steps": 20}
    assert run(folder, tmp_path / "x.pass.gguf", *text, **small).exit_code == 0
    both = ["--held-out", str(held_out), "--also", str(first)]
    done = run(folder, second, *both, **small, seed=1)
    assert done.exit_code == 0, done.output
    assert "also first" in read_lookahead(second).training
    recipe = Recipe(held_out=str(held_out), also=(str(first),), **small)
    training = Training(folder / "m.gguf", recipe, second.with_suffix(".training"))
    training._base = read_base(folder / "m.gguf")
    assert len(training._texts("text")) == 64
    assert len(training._texts("held-out-text")) == 2
    refused = run(folder, tmp_path / "y.pass.gguf", "--also", str(first), **small)
    assert "--held-out" in refused.output
    other = tmp_path / "other.txt"
    other.write_text("9 9 9\n")
    refused = run(folder, tmp_path / "z.pass.gguf", "--also", str(first), "--held-out", str(other), **small)
    assert "held other prompts out" in refused.output
