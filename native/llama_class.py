"""The constructor of llama-cpp-python's `Llama`, for code that was written for it."""

from __future__ import annotations

import inspect

from llama_cpp import Llama


def constructor_defaults() -> dict[str, object]:
    """Return the names and defaults of the optional parameters of `llama_cpp.Llama`."""
    parameters = inspect.signature(Llama.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def parameter_names(method: str) -> list[str]:
    """Names of the parameters of ``method`` of `llama_cpp.Llama`, in order, without ``self``."""
    return list(inspect.signature(getattr(Llama, method)).parameters)[1:]
