"""The schema of a tool's arguments, parameter by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .call import Schema

_MAX_REFERENCES = 8


def parameters(schema: Schema) -> dict[str, Schema]:
    """Return the schema of each parameter, with the definitions that it may refer to."""
    root = resolved(schema, schema)
    properties = root.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {str(name): resolved(each, schema) for name, each in properties.items()}


def required(schema: Schema) -> set[str]:
    """Return the names of the parameters that a call must have."""
    names = resolved(schema, schema).get("required")
    return {*names} if isinstance(names, list) else set()


def resolved(schema: Any, root: Schema) -> dict[str, Any]:
    """Return ``schema`` with the definitions of ``root``, and with what it refers to in place of a
    reference."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        target: Any = root if isinstance(reference, str) and reference.startswith("#") else None
        for key in str(reference).lstrip("#/").split("/") if target is not None and reference != "#" else ():
            target = (
                target.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
            )
        if not isinstance(target, Mapping):
            break
        schema = target
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**definitions, **schema} if isinstance(schema, Mapping) else {}


def listed_values(schema: Schema) -> list[Any] | None:
    """Return the values that a schema lists, as a constant or an enumeration; None if it lists none."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def texts_of(schema: Schema) -> list[str] | None:
    """Return the texts that a parameter may be, if it is one of some; None if it is anything else."""
    values = listed_values(schema)
    return values if values and all(isinstance(value, str) for value in values) else None


def may_be_text(schema: Schema) -> bool:
    """Return whether a parameter may be text; of a schema that does not say, true."""
    return bool(_types(schema) & {"string"})


def is_text(schema: Schema) -> bool:
    """Return whether a parameter is text and nothing else."""
    return _types(schema) == {"string"}


def _types(schema: Any) -> set[str]:
    everything = {"string", "other"}
    if not isinstance(schema, Mapping):
        return everything
    if (values := listed_values(schema)) is not None:
        return {"string" if isinstance(value, str) else "other" for value in values}
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {"string" if name == "string" else "other" for name in names}
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return set().union(*map(_types, schema[key]))
    return everything
