"""Models for the tests: the default model, its quantizations, and tiny random ones; an engine."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from pass_edge import Engine, Settings
from pass_edge.models import default_model
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.recurrent_models import write_recurrent_model

# how long an example takes depends on what else the machine does
hypothesis.settings.register_profile("pass-edge", deadline=None)
hypothesis.settings.load_profile("pass-edge")

# a shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Layers go to a GPU only where a test sends them: passes of other widths have other bits there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pass_edge.settings.fitting_layers", lambda *_: 0)
        # so that no child tries the GPU
        patch.setattr("pass_edge.engine_setup.loaded_model.can_offload", lambda: False)
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


@pytest.fixture(scope="session")
def recurrent_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random model with a recurrent memory, by its kind; written at the first call."""
    folder = tmp_path_factory.mktemp("recurrent")

    def get(kind: str) -> Path:
        path = folder / f"{kind}.gguf"
        return path if path.exists() else write_recurrent_model(path, kind)

    return get
