"""What the constructor of llama-cpp-python's own class takes, for code that was written for it."""

from __future__ import annotations

import inspect

from llama_cpp import Llama


def constructor_defaults() -> dict[str, object]:
    """Names and defaults of `llama_cpp.Llama`'s optional parameters."""
    parameters = inspect.signature(Llama.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def parameter_names(method: str) -> list[str]:
    """Names of the parameters of ``method`` of `llama_cpp.Llama`, in order, without ``self``."""
    return list(inspect.signature(getattr(Llama, method)).parameters)[1:]
