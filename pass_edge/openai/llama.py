"""The class that code written for llama-cpp-python expects: ``from pass_edge import Llama``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pass_edge.engine import Engine
from pass_edge.native.errors import SettingsError
from pass_edge.native.llama_class import constructor_defaults
from pass_edge.settings import AUTO, Settings

from .requests import RANDOM_SEED

# parameters of `llama_cpp.Llama` that change nothing here, because the engine does as they ask or decides
# by itself
_WITHOUT_EFFECT = (
    "verbose", "n_batch", "n_ubatch", "n_threads_batch", "use_mmap", "logits_all", "flash_attn",
    "offload_kqv", "op_offload", "swa_full", "no_perf", "last_n_tokens_size", "numa",
    "n_parts", "f16_kv",  # which LangChain gives, and `llama_cpp.Llama` itself takes no notice of any more
)  # fmt: skip
_DEFAULT_SEED = 0xFFFFFFFF  # `llama.h`, LLAMA_DEFAULT_SEED: draw one


class Llama:
    """``llama_cpp.Llama`` as far as text goes, over a PaSS Edge engine, which is its ``engine``.

    ``model_path``, ``n_ctx``, ``n_gpu_layers``, ``n_threads`` and ``seed`` mean what they mean there;
    ``lookahead`` and ``settings`` (which then holds all but ``seed``) are the engine's own. Close it, or
    use it as a context manager. May be called from any thread.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int = 0,
        n_ctx: int = 512,
        n_threads: int | None = None,
        seed: int | None = None,
        lookahead: Any = AUTO,
        settings: Settings | None = None,
        **others: object,
    ) -> None:
        """Raises SettingsError on parameters that this engine does not have, and as ``Engine`` does."""
        defaults = constructor_defaults()
        refused = sorted(
            name
            for name, value in others.items()
            if name not in _WITHOUT_EFFECT and (name not in defaults or value != defaults[name])
        )
        if refused:
            raise SettingsError(f"not supported here: {', '.join(refused)}")
        made = Settings(context_size=n_ctx, gpu_layers=n_gpu_layers, threads=n_threads)
        self.engine = Engine(model_path, lookahead=lookahead, settings=settings or made)
        self.model_path = model_path
        self._seed = RANDOM_SEED if seed in (None, _DEFAULT_SEED) else seed

    def create_completion(self, *given: Any, **named: Any) -> Any:
        """As ``Engine.create_completion``."""
        return self.engine.create_completion(*given, **self._seeded(named))

    __call__ = create_completion

    def create_chat_completion(self, *given: Any, **named: Any) -> Any:
        """As ``Engine.create_chat_completion``."""
        return self.engine.create_chat_completion(*given, **self._seeded(named))

    def _seeded(self, named: dict[str, Any]) -> dict[str, Any]:
        return named if named.get("seed") is not None else {**named, "seed": self._seed}

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8 ``text``; ``add_bos``: with the BOS, where the model asks for one."""
        self.engine.check()
        vocabulary = self.engine.model.vocabulary
        return vocabulary.tokenize(text.decode(), add_special=add_bos, parse_special=special).tolist()

    def detokenize(self, tokens: Sequence[int], *_: object, special: bool = False) -> bytes:
        """The text of ``tokens`` in UTF-8."""
        self.engine.check()
        return b"".join(self.engine.model.vocabulary.piece(token, special=special) for token in tokens)

    def n_ctx(self) -> int:
        """Tokens that a conversation may hold."""
        return self.engine.context_size

    def n_vocab(self) -> int:
        """Tokens of the model."""
        return self.engine.base.n_vocab

    def token_bos(self) -> int:
        """The token that begins a text; -1 if there is none."""
        return self.engine.model.vocabulary.bos

    def token_eos(self) -> int:
        """The token that ends a text; -1 if there is none."""
        return self.engine.model.vocabulary.eos

    def close(self) -> None:
        """As ``Engine.close``."""
        self.engine.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
