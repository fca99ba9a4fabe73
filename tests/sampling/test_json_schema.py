"""Texts under JSON schemas: every one of them validates, and what is not supported is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge import LlamaGrammar, SettingsError
from pass_edge.native.constraint import Constraint, lark_grammar, schema_grammar
from pass_edge.native.model import Model
from tests.support.schemas import REAL_SCHEMAS

Write = Callable[[str, int], str]
MAX_TOKENS = 3000


@pytest.fixture(scope="module")
def write(speaking_path: Path) -> Iterator[Write]:
    """Writes a text under a grammar by chance, and closes what is open more and more often. What ends a text
    by its length, "", is none."""
    with Model(speaking_path) as model:
        vocabulary = model.vocabulary
        closing = np.array(
            [vocabulary.piece(token)[:1] in (b"", *b'"]}') for token in range(vocabulary.size)]
        )
        closing |= [vocabulary.piece(token)[:1] in (b'"', b"]", b"}") for token in range(vocabulary.size)]
        closing |= [vocabulary.is_end(token) for token in range(vocabulary.size)]

        def write(grammar: str, seed: int) -> str:
            constraint, rng, ids = Constraint(vocabulary, grammar), np.random.default_rng(seed), []
            for i in range(MAX_TOKENS):
                allowed = constraint.allowed()
                if rng.random() < min(0.2 + i / 400, 0.9) and (allowed & closing).any():
                    allowed &= closing
                assert allowed.any(), f"nothing follows {ids}"
                token = int(rng.choice(np.flatnonzero(allowed)))
                if vocabulary.is_end(token):
                    return b"".join(map(vocabulary.piece, ids)).decode()
                constraint.accept([token])
                ids.append(token)
            return ""

        yield write


def check(write: Write, schema: Any, n: int = 6) -> None:
    """Validate some texts under ``schema``. Format and pattern are checked as Python knows them."""
    grammar = schema_grammar(schema)
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    for seed in range(n):
        text = write(grammar, seed)
        if text:
            validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(text))


COLOR = {"enum": ["red", "green"]}
FAULTS = {
    "a list of types beside an enum": {"type": ["string", "null"], "enum": ["x", "y", None]},
    "allOf with a reference": {
        "type": "object",
        "properties": {"color": {"allOf": [{"$ref": "#/$defs/Color"}]}},
        "required": ["color"],
        "$defs": {"Color": COLOR},
    },
    "a definition called like a type": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/string"}, "string": {"type": "boolean"}},
        "required": ["a", "string"],
        "$defs": {"string": {"type": "integer"}},
    },
    "emoji, backslashes and quotes in an enum": {"enum": ["😀", "a\\b", 'say "hi"', "tab\t", "é", "\u2028"]},
    "a pattern of any character": {"type": "string", "pattern": "^.$"},
    "a pattern that is not anchored": {"type": "string", "pattern": ".a"},
    "bounds": {"type": "integer", "minimum": 5, "maximum": 117},
    "bounds of numbers": {"type": "number", "exclusiveMinimum": -1, "maximum": 2.5},
    "bounds of draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "integer",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 3,
        "exclusiveMaximum": False,
    },
    "multipleOf": {"type": "integer", "multipleOf": 7},
    "a format": {"type": "string", "format": "date"},
    "minItems without items": {"type": "array", "minItems": 2, "maxItems": 4},
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^a": {"type": "integer"}},
        "additionalProperties": False,
    },
    "maxLength above 200": {"type": "string", "minLength": 190, "maxLength": 300},
    "digits and words": {"type": "string", "pattern": r"^\d+-\w\w$"},
    "a recursive root": {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                },
                "required": ["value", "children"],
            }
        },
    },
    "a list of anything": {"type": "array", "items": {}},
    "positional items": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}, {"type": "string"}],
        "minItems": 2,
    },
    "a constant": {"const": {"a": [1, None, "\\"]}},
    "anything": True,
    "open beside allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    "what is not described": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]},
    "an enum beside a type": {"type": "integer", "enum": [1, 2, "x"]},
    "nothing but uniqueItems false": {"type": "array", "items": {"type": "integer"}, "uniqueItems": False},
}


@pytest.mark.parametrize("schema", FAULTS.values(), ids=FAULTS)
def test_every_text_under_a_schema_validates(write: Write, schema: Any) -> None:
    check(write, schema)


@pytest.mark.parametrize("schema", REAL_SCHEMAS.values(), ids=REAL_SCHEMAS)
def test_schemas_of_apps_are_kept_to(write: Write, schema: Any) -> None:
    check(write, schema)


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"x-guidance": {"lenient": True}, "not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "then"),
        ({"type": "array", "contains": {"const": 1}}, "contains"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"type": "string", "pattern": "^(?=a)"}, "look-ahead"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "https://x.y/z"}, "https://x.y/z"),
        ({"$ref": "#/no"}, "/no"),
        ({"enum": 3}, "enum"),
        (False, "match some value"),
        ({"const": float("nan")}, "no JSON"),
        ([], "must be an object"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(schema: Any, word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        schema_grammar(schema)


def test_a_schema_that_nests_too_deep_is_refused() -> None:
    schema: dict = {"type": "integer"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SettingsError, match="deep"):
        schema_grammar(schema)


def test_two_schemas_of_one_grammar_keep_their_own_definitions(write: Write) -> None:
    def with_item(item: Any) -> Any:
        return {"type": "array", "items": {"$ref": "#/$defs/Item"}, "minItems": 1, "$defs": {"Item": item}}

    first, second = with_item({"const": 1}), with_item({"const": "two"})
    grammar = lark_grammar('start: "a" @first | "b" @second', {"first": first, "second": second})
    for seed in range(12):
        text = write(grammar, seed)
        if text:
            jsonschema.validate(json.loads(text[1:]), first if text[0] == "a" else second)


def test_a_grammar_of_a_schema_is_made_as_with_llama_cpp_python(write: Write) -> None:
    grammar = LlamaGrammar.from_json_schema(json.dumps({"enum": ["😀"]}), verbose=False)
    assert write(grammar._grammar, 0) == '"😀"'
    with pytest.raises(SettingsError, match="no JSON"):
        LlamaGrammar.from_json_schema("{")


# -- random schemas ------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "name", "é", 'q"', "id\\"])
STRINGS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "minLength": st.integers(0, 5),
        "maxLength": st.integers(5, 300),
    },
)
OTHER_STRINGS = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("string"),
            "pattern": st.sampled_from(
                [
                    "^[a-z]+$",
                    r"^\d{3}-\d{4}$",
                    "^(yes|no)$",
                    "a.c",
                    r"^[^\s@]+@\w+\.\w{2,}$",
                    r"\\",
                    '"',
                    "é*$",
                ]
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("string"),
            "format": st.sampled_from(
                ["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "password"]
            ),
        }
    ),
)
BOUND = st.integers(-1000, 1000)
NUMBERS = st.builds(
    lambda kind, low, width, exclusive, multiple: {
        "type": kind,
        ("exclusiveMinimum" if exclusive else "minimum"): low,
        "maximum": low + width,
        **({"multipleOf": multiple} if multiple else {}),
    },
    st.sampled_from(["integer", "number"]),
    BOUND,
    st.integers(40, 500),
    st.booleans(),
    st.sampled_from([0, 0, 3, 7, 10]),
)
VALUES = st.sampled_from(
    [None, True, 0, -1, 2.5, "", "x", "😀", "a\\b", 'q"', "line\nline", [], [1], {"k": None}]
)
LEAVES = st.one_of(
    STRINGS,
    OTHER_STRINGS,
    NUMBERS,
    st.sampled_from(
        [{"type": "integer"}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}]
    ),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, VALUES),
    st.just({"$ref": "#/$defs/shared"}),
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.builds(
        lambda properties, n_required, more: {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:n_required],
            **more,
        },
        st.dictionaries(NAMES, inner, max_size=4),
        st.integers(0, 4),
        st.one_of(
            st.just({}),
            st.builds(lambda schema: {"additionalProperties": schema}, st.one_of(st.booleans(), inner)),
        ),
    )
    arrays = st.builds(
        lambda items, low, width: {"type": "array", "items": items, "minItems": low, "maxItems": low + width},
        inner,
        st.integers(0, 2),
        st.integers(0, 3),
    )
    choices = st.builds(lambda schemas: {"anyOf": schemas}, st.lists(inner, min_size=1, max_size=3))
    return st.one_of(objects, arrays, choices)


SCHEMAS = st.builds(
    lambda schema, shared: {**schema, "$defs": {"shared": shared}},
    st.recursive(LEAVES, nested, max_leaves=8),
    STRINGS,
)


def validate_random_schemas(write: Write, count: int) -> None:
    @settings(max_examples=count, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(schema=SCHEMAS)
    def validate(schema: Any) -> None:
        check(write, schema, n=2)

    validate()


def test_texts_under_random_schemas_validate(write: Write) -> None:
    validate_random_schemas(write, 100)


@pytest.mark.slow
def test_texts_under_many_random_schemas_validate(write: Write) -> None:
    validate_random_schemas(write, 1000)
