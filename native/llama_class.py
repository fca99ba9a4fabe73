"""The constructor of llama-cpp-python's `Llama`, for code that was written for it."""

from __future__ import annotations

import inspect

from llama_cpp import Llama


def constructor_defaults() -> dict[str, object]:
    """Return the names and defaults of the optional parameters of `llama_cpp.Llama`."""
    parameters = inspect.signature(Llama.__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty
    }
