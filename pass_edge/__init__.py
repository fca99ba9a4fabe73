"""PaSS Edge: Parallel Speculative Sampling (Monea, Joulin, Grave, arXiv 2311.13581) over llama.cpp.

A model decodes faster by drafting its own next tokens with a few trained lookahead embeddings and
verifying them in the next forward pass. The text stays what plain decoding gives.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pass_edge.native import errors as _errors

if TYPE_CHECKING:
    from .public import *  # noqa: F403 — what type checkers and editors see
else:

    def __getattr__(name):
        """Import a public name when it is first used. So commands that need no model start at once, and where
        llama.cpp's library cannot be loaded, `pass-edge setup` runs and LibraryError can be caught."""
        if hasattr(_errors, name):
            return getattr(_errors, name)
        try:
            public = import_module("pass_edge.public")
        except AttributeError as error:  # it would be taken for a name that is not there
            raise ImportError(f"pass_edge cannot be imported: {error}") from error
        return getattr(public, name)

    def __dir__():
        return import_module("pass_edge.public").__all__
