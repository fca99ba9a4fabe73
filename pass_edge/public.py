"""The names that `pass_edge` offers."""

from pass_edge.decoding.saved_session import SavedSession
from pass_edge.drafting.lookahead import Lookahead
from pass_edge.drafting.lookahead_file import read_lookahead, write_sidecar
from pass_edge.native.constraint import LlamaGrammar, schema_grammar
from pass_edge.native.embedder import Embedder
from pass_edge.native.errors import (
    ContextError,
    ContextFullError,
    LibraryError,
    LookaheadError,
    ModelError,
    OutputError,
    PassEdgeError,
    SessionError,
    SettingsError,
)
from pass_edge.openai.llama import Llama
from pass_edge.sampling.logprobs import Logprob
from pass_edge.sampling.sampler import Sampling

from .engine import Engine
from .generation import Generation
from .models import default_model
from .settings import Settings
from .stats import Stats

__all__ = [
    "ContextError",
    "ContextFullError",
    "Embedder",
    "Engine",
    "Generation",
    "LibraryError",
    "Llama",
    "LlamaGrammar",
    "Logprob",
    "Lookahead",
    "LookaheadError",
    "ModelError",
    "OutputError",
    "PassEdgeError",
    "Sampling",
    "SavedSession",
    "SessionError",
    "Settings",
    "SettingsError",
    "Stats",
    "default_model",
    "read_lookahead",
    "schema_grammar",
    "write_sidecar",
]
