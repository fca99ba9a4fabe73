"""JSON schemas, brought into the form that llguidance reads.

llguidance reads most of JSON Schema and refuses keywords that it does not know by name. This module removes
what constrains nothing, and rewrites what older drafts wrote in another way, so that nothing is passed over.
Objects get no properties beyond those that are described, unless ``additionalProperties`` says otherwise or
several schemas describe one object together: such texts match all the same, and they end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import SettingsError

Schema = dict[str, Any]

_ONE = ("additionalProperties", "items", "not", "contains", "propertyNames", "if", "then", "else")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OBJECT = {"properties", "patternProperties", "additionalProperties", "required"}
_FORMATS = {
    *("date-time", "time", "date", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4"),
    *("ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer"),
    *("relative-json-pointer", "regex"),
}
"""Formats that JSON Schema defines. Others, such as OpenAPI's "password", constrain nothing."""


def supported_schema(schema: Mapping[str, Any] | bool) -> Schema:
    """Return ``schema`` as an object that llguidance reads. Raises SettingsError if it is no schema."""
    try:
        plain = json.loads(json.dumps(schema, allow_nan=False))
        schemas = list(_schemas(plain))
    except RecursionError:
        raise SettingsError("this JSON schema nests too deep") from None
    except (TypeError, ValueError) as error:
        raise SettingsError(f"this JSON schema is no JSON: {error}") from error
    if plain is True:
        return {}
    if not isinstance(plain, dict):
        raise SettingsError("a JSON schema must be an object, and match some value")
    for each in schemas:
        _remove_idle_keywords(each)
        _rewrite_bounds(each)
    if not any(map(_shares_an_object, schemas)):
        for each in schemas:
            _close(each)
    return plain


def _schemas(schema: Any) -> Iterator[Schema]:
    """``schema`` and all schemas in it. Positional items of older drafts become ``prefixItems``."""
    if not isinstance(schema, dict):
        return
    yield schema
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema.pop("additionalItems")
    parts = [schema[key] for key in _ONE if key in schema]
    for key in _LISTS:
        parts += schema[key] if isinstance(schema.get(key), list) else ()
    for key in _MAPS:
        parts += schema[key].values() if isinstance(schema.get(key), dict) else ()
    for part in parts:
        yield from _schemas(part)


def _remove_idle_keywords(schema: Schema) -> None:
    schema.pop("x-guidance", None)  # a private switch of llguidance, which could turn refusals off
    schema.pop("$schema", None)  # after the rewriting all are schemas of 2020
    if "format" in schema and schema["format"] not in _FORMATS:
        del schema["format"]
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]


def _rewrite_bounds(schema: Schema) -> None:
    """Write the exclusive bounds of draft 4, which are flags, as numbers."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        flag = schema.get(exclusive)
        if isinstance(flag, bool):
            del schema[exclusive]
            if flag and bound in schema:
                schema[exclusive] = schema.pop(bound)


def _shares_an_object(schema: Schema) -> bool:
    """Return whether another part of the schema may describe properties of the same object."""
    beside = schema.keys() & {"anyOf", "oneOf", "$ref"}
    return "allOf" in schema or len(beside) > 1 or bool(beside and schema.keys() & _OBJECT)


def _close(schema: Schema) -> None:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or schema.keys() & {"additionalProperties", "patternProperties"}:
        return
    if {*schema.get("required", ())} <= properties.keys() and schema.get("minProperties", 0) <= len(
        properties
    ):
        schema["additionalProperties"] = False
