"""The commands as a person uses them: with options and files, in a pipe, and in a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from pass_edge import Settings, SettingsError
from pass_edge.decoding.saved_session import read_session
from pass_edge.models import default_model
from pass_edge.native.model import ALL_LAYERS
from tests.support.command_line import assert_refused, run

COMMAND = [sys.executable, "-m", "pass_edge"]


def test_generate_prints_one_json_object() -> None:
    command = [*COMMAND, "generate", "Name three rivers.", "--temp", "0", "-n", "24", "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["ids"]) == 24
    assert report["finish_reason"] == "length"
    assert report["schedule"] == "auto"
    assert report["tokens_per_pass"] == pytest.approx(24 / report["passes"])
    assert report["tokens_per_second"] > 0
    assert all(0 <= share <= 1 for share in report["acceptance"])  # none, where nothing was drafted
    assert report["text"]


def test_ctrl_c_in_a_callback_of_llama_cpp_is_not_lost() -> None:
    script = """
import logging, signal, time
from pass_edge.commands.terminal.output import redeliver_interrupts
from pass_edge.native.library import llama, log
class Struck(logging.Handler):
    def emit(self, record):
        log.removeHandler(self)
        signal.raise_signal(signal.SIGINT)
log.addHandler(Struck())
log.setLevel(logging.DEBUG)
with redeliver_interrupts():
    try:
        llama.llama_model_load_from_file(b"/no/such/file", llama.llama_model_default_params())
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert done.stdout == "stopped\n"
    assert done.stderr == ""


def test_the_same_seed_gives_the_same_text_on_every_schedule() -> None:
    def text(schedule: str) -> str:
        return run("generate", "A poem.", "--seed", "5", "-n", "24", "--schedule", schedule).stdout

    assert text("auto") == text("fused") == text("plain") == text("two-pass") == text("head") != ""


def test_a_stop_string_ends_the_text() -> None:
    full = run("generate", "Count: one, two,", "--raw", "--temp", "0", "-n", "20").stdout
    word = full.split()[2]
    done = run("generate", "--raw", "--temp", "0", "-n", "20", "--stop", word, stdin=b"Count: one, two,")
    assert done.stdout.rstrip("\n") == full[: full.index(word)].rstrip("\n")


def test_a_schema_and_a_grammar_are_kept_to(speaking_path: Path, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "s.json", tmp_path / "g.gbnf"
    schema.write_text('{"enum": ["Loire", "Rhône"]}')
    grammar.write_text('root ::= "Rhine" | "Elbe"')
    ask = ("generate", "Name a river.", "--temp", "0", "-m", str(speaking_path))
    assert json.loads(run(*ask, "--json-schema-file", str(schema)).stdout) in ("Loire", "Rhône")
    assert run(*ask, "--grammar-file", str(grammar)).stdout.strip() in ("Rhine", "Elbe")
    grammar.write_text("root")
    for wrong in ((grammar, "is no GBNF"), (tmp_path / "none", "cannot be read")):
        assert_refused(run(*ask, "--grammar-file", str(wrong[0])), wrong[1])


def test_doctor_knows_the_default_model() -> None:
    done = run("doctor", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"]["path"] == str(default_model())
    assert report["library"]["verdict"] == "works"
    said = report["model"]["lookahead"]
    assert re.search(r"a head on hidden states; that alone should decode at \d\.\d\d times plain", said)
    assert report["machine"]["amx"] in ("absent", "works", "traps")


def test_doctor_looks_at_the_model_given(tiny_path: Path) -> None:
    done = run("doctor", str(tiny_path), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["model"]["path"] == str(tiny_path)
    assert_refused(run("doctor", "nowhere.gguf"), "there is no file")


def test_doctor_says_what_a_draft_model_costs(tiny_path: Path, model_path: Path) -> None:
    done = run("doctor", str(tiny_path), "-md", str(tiny_path), "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)["model"]["draft_model"]
    assert re.search(r"Q8_0, \d+ MiB: \d+\.\d ms a pass, where the model takes \d+\.\d ms; \w+", said)
    assert_refused(run("doctor", str(tiny_path), "--draft-model", str(model_path)), "same tokenizer")


def test_a_draft_model_leaves_the_text_as_it_is(tiny_path: Path, speaking_path: Path) -> None:
    ask = ("generate", "yes", "--raw", "-n", "24", "-s", "5", "-m", str(speaking_path))
    text = run(*ask).stdout
    assert run(*ask, "--draft-model", str(speaking_path)).stdout == text != ""
    assert_refused(run(*ask, "-md", str(tiny_path)), "same tokenizer")


def test_a_model_given_as_the_question_is_told(tiny_path: Path) -> None:
    assert_refused(run("generate", str(tiny_path)), "give it with --model")


def test_a_chat_through_a_pipe(tmp_path: Path) -> None:
    saved = tmp_path / "chat.session"
    lines = f"Say hello.\n/stats\n/save {saved}\n/reset\n/load {saved}\n/nonsense\n/quit\nnever read\n"
    done = run("chat", "-n", "8", "--temp", "0", stdin=lines.encode())
    assert done.exit_code == 0, done.stderr
    messages = read_session(saved).messages
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert done.stdout.strip() == messages[1]["content"].strip()
    errors = done.stderr
    assert "tokens/pass" in errors
    assert "host share" in errors
    assert "2 messages loaded" in errors
    assert "there is no /nonsense" in errors


def test_a_chat_in_a_terminal_survives_ctrl_c(tmp_path: Path) -> None:
    child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], "chat", "--temp", "0"], encoding="utf-8", timeout=120)
    try:
        child.expect(">")
        child.send("Write a very long story about the sea.\r")
        child.expect_exact("\x1b[?2004l")  # the prompt has given the terminal back
        child.expect(r"\w+ \w+ ")
        child.sendintr()
        child.expect("tokens/pass")
        child.send("/reset\r")
        child.expect("forgotten")
        child.send("/help\r")
        child.expect("/load FILE")
        child.send("Hi\r")
        child.expect("tokens/pass")
        child.send("/quit\r")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)


def test_quantize_writes_a_model_once(tiny_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "q4.gguf"
    done = run("quantize", str(tiny_path), str(target), "Q4_0")
    assert done.exit_code == 0, done.stderr
    assert "MiB" in done.stdout
    assert_refused(run("quantize", str(tiny_path), str(target), "Q4_0"), "exists")
    assert_refused(run("quantize", str(tiny_path), str(tmp_path / "x.gguf"), "Q4_Z"), "unknown type")
    assert_refused(run("quantize", str(Path(__file__)), str(tmp_path / "x.gguf"), "Q4_0"))
    assert [path.name for path in tmp_path.iterdir()] == ["q4.gguf"]


def test_an_interrupted_quantize_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    arguments = [*COMMAND[1:], "quantize", str(default_model()), str(target), "Q2_K", "-t", "1"]
    child = pexpect.spawn(COMMAND[0], arguments, encoding="utf-8", timeout=120, dimensions=(24, 100))
    try:
        child.expect(r"[1-9]\d*/\d+")
        child.sendintr()
        child.expect("nothing was written")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 130
        assert not list(tmp_path.iterdir())
    finally:
        child.close(force=True)


def test_bench_compares_both_schedules_on_a_users_prompts(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(
        '"Name three rivers."\n{"turns": ["Count from 1 to 20.", "Go on."]}\n'
    )
    done = run("bench", "--prompts", str(tmp_path / "mine.jsonl"), "--tokens", "24", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == default_model().name
    assert [each["prompt"] for each in report["prompts"]] == ["Name three rivers.", "Count from 1 to 20."]
    assert report["same_ids"] is True
    assert report["passes"]["rows"][0] == 1
    assert all(sum(shares.values()) <= 1 + 1e-9 for shares in report["time"].values())
    assert report["time"]["auto"]["llama_cpp"] > 0.5
    assert "answering: 1/2" in done.stderr
    assert "times stock" in done.stderr


@pytest.mark.parametrize(
    ("given", "layers"), [("auto", None), ("all", ALL_LAYERS), ("-1", ALL_LAYERS), ("0", 0), ("7", 7)]
)
def test_gpu_layers_are_a_number_all_or_auto(
    given: str, layers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*_: object, settings: Settings, **__: object) -> None:
        asked.append(settings.gpu_layers)
        raise SettingsError("the settings are known")

    monkeypatch.setattr("pass_edge.commands.engine_options.Engine", refuse)
    done = run("generate", "--gpu-layers", given, "Hello")
    assert "the settings are known" in done.output
    assert asked == [layers]


def test_gpu_layers_in_words_that_are_unknown_are_refused() -> None:
    assert_refused(run("generate", "--gpu-layers", "some", "Hello"), "some")
