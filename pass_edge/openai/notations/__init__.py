"""How families of models write tool calls, a file for each kind of notation.

A chat template shows its notation by the marks in it. ``notation.py`` has what the readers share and the
table of families; ``json_calls.py`` (Hermes, Qwen, Llama 3, Mistral, DeepSeek, gpt-oss), ``xml_calls.py``
(Qwen3-Coder), ``python_calls.py`` (LFM2) and ``gemma_calls.py`` read one call.
"""

from .notation import HERMES, NOTATIONS, Call, IncompleteError, Notation, notation_of

__all__ = ["HERMES", "NOTATIONS", "Call", "IncompleteError", "Notation", "notation_of"]
