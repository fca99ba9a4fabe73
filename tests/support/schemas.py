"""JSON schemas as apps send them: made by pydantic, made by zod, and written in OpenAPI documents."""

from __future__ import annotations

from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel


class Color(str, Enum):
    red = "red"
    green = "green"
    blue = "blue"


class Priority(Enum):
    low = 1
    high = 2


class Address(BaseModel):
    street: str
    city: str
    zip_code: str = Field(pattern=r"^\d{5}(-\d{4})?$")


class Person(BaseModel):
    name: str = Field(min_length=1, max_length=80, description="Full name")
    age: int = Field(ge=0, le=130)
    email: str | None = None
    address: Address
    tags: list[str] = []


class Node(BaseModel):
    value: int
    children: list[Node] = Field(default=[], max_length=2)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    breed: str


class Pet(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Union(BaseModel):
    value: int | str | list[float] | None


class Anything(BaseModel):
    items: list[Any]
    extra: dict[str, Any]


class Scores(BaseModel):
    scores: dict[str, float]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    color: Color
    priority: Priority
    flag: bool = False


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


class Event(BaseModel):
    title: str
    day: date
    start: datetime
    rating: float = Field(gt=0, lt=5)
    pair: tuple[int, str]


class Pairs(BaseModel):
    pairs: list[tuple[str, int]] = Field(min_length=1, max_length=3)


class Step(BaseModel):
    explanation: str
    output: str


class Reasoning(BaseModel):
    steps: list[Step] = Field(max_length=4)
    final_answer: str


class Text(RootModel[str]):
    pass


class People(RootModel[list[Person]]):
    pass


class Optionals(BaseModel):
    a: int | None = None
    b: str | None = Field(default=None, max_length=500)
    c: Color | None = None
    d: Address | None = None


class Expression(BaseModel):
    operator: Literal["+", "-", "*"]
    left: Expression | float
    right: Expression | float


_MODELS = (
    *(
        Person,
        Node,
        Pet,
        Union,
        Anything,
        Scores,
        Strict,
        Open,
        Event,
        Pairs,
        Reasoning,
        Text,
        People,
        Optionals,
    ),
    *(Expression, Address, Cat),
)


def _object(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """An object as zod writes it."""
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


_STRING, _NUMBER, _INTEGER, _BOOLEAN = ({"type": each} for each in ("string", "number", "integer", "boolean"))
_DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
_ZOD: dict[str, Any] = {
    "string": {**_DRAFT_7, **_object(name=_STRING)},
    "optional": {**_DRAFT_7, **_object(["a"], a=_STRING, b=_NUMBER)},
    "nullable": {**_DRAFT_7, **_object(a={"type": ["string", "null"]})},
    "nullable of an object": _object(a={"anyOf": [_object(x=_INTEGER), {"type": "null"}]}),
    "literal": _object(type={"type": "string", "const": "circle"}, radius=_NUMBER),
    "enum": _object(role={"type": "string", "enum": ["user", "assistant", "system"]}),
    "nullable enum": _object(role={"type": ["string", "null"], "enum": ["a", "b", None]}),
    "union": {"anyOf": [_STRING, _NUMBER]},
    "union of primitive types": {"type": ["string", "number", "boolean"]},
    "discriminated union": {
        "anyOf": [
            _object(t={"type": "string", "const": "a"}, x=_INTEGER),
            _object(t={"const": "b"}, y=_STRING),
        ]
    },
    "bounded array": _object(a={"type": "array", "items": _STRING, "minItems": 1, "maxItems": 3}),
    "tuple": {**_DRAFT_7, "type": "array", "minItems": 2, "maxItems": 2, "items": [_STRING, _NUMBER]},
    "record": {"type": "object", "additionalProperties": _NUMBER},
    "email": _object(email={"type": "string", "format": "email"}),
    "uuid": _object(id={"type": "string", "format": "uuid"}),
    "url": _object(url={"type": "string", "format": "uri"}),
    "regex": _object(code={"type": "string", "pattern": "^[A-Z]{3}-\\d+$"}),
    "starts with": _object(code={"type": "string", "pattern": "^https?:\\/\\/"}),
    "positive": _object(n={"type": "number", "exclusiveMinimum": 0}),
    "positive in OpenAPI 3": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        **_object(n={"type": "number", "minimum": 0, "exclusiveMinimum": True}),
    },
    "multiple": _object(n={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}),
    "any": _object(a={}),
    "passthrough": {**_object(a=_STRING), "additionalProperties": True},
    "definitions": {
        **_DRAFT_7,
        "$ref": "#/definitions/Root",
        "definitions": {"Root": _object(["x"], x=_STRING, next={"$ref": "#/definitions/Root"})},
    },
    "a reference to a property": _object(a=_object(b=_STRING), c={"$ref": "#/properties/a"}),
    "description and default": _object(a={"type": "string", "description": "The a", "default": "x"}),
    "nested arrays": _object(
        m={"type": "array", "maxItems": 3, "items": {"type": "array", "items": _NUMBER}}
    ),
}

_OPENAPI: dict[str, Any] = {
    "int32": _object(id={"type": "integer", "format": "int32"}),
    "int64 and double": _object(
        id={"type": "integer", "format": "int64"}, x={"type": "number", "format": "double"}
    ),
    "password": _object(secret={"type": "string", "format": "password", "minLength": 8}),
    "binary": _object(data={"type": "string", "format": "byte"}),
    "nullable": _object(a={"type": "string", "nullable": True}),
    "example": _object(a={"type": "string", "example": "x"}),
    "read only": _object(
        ["a"], a={"type": "string", "readOnly": True}, b={"type": "string", "deprecated": True}
    ),
    "a component": {
        "$ref": "#/components/schemas/Pet",
        "components": {
            "schemas": {"Pet": {"type": "object", "properties": {"name": _STRING}, "required": ["name"]}}
        },
    },
    "inheritance": {
        "allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"type": "object", "properties": {"bark": _BOOLEAN}, "required": ["bark"]},
        ],
        "components": {
            "schemas": {"Base": {"type": "object", "properties": {"id": _INTEGER}, "required": ["id"]}}
        },
    },
    "a described reference": _object(
        color={"allOf": [{"$ref": "#/$defs/Color"}], "description": "The color", "default": "red"}
    )
    | {"$defs": {"Color": {"type": "string", "enum": ["red", "blue"]}}},
    "one of with a discriminator": {
        "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            "A": _object(kind={"type": "string", "const": "a"}, x=_INTEGER),
            "B": _object(kind={"type": "string", "const": "b"}),
        },
    },
    "additional properties": {"type": "object", "additionalProperties": {"type": "array", "items": _INTEGER}},
    "a tool without parameters": {"type": "object", "properties": {}},
    "get_weather": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City and country, e.g. Bogotá, Colombia"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["location"],
    },
    "search": _object(
        ["query"],
        query=_STRING,
        limit={"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
        sort={"type": "string", "enum": ["relevance", "date"]},
        filters={"type": "object", "properties": {"language": _STRING, "year": _INTEGER}},
    ),
    "send_email": _object(
        ["to", "subject"],
        to={"type": "array", "items": {"type": "string", "format": "email"}, "minItems": 1, "maxItems": 3},
        subject={"type": "string", "maxLength": 200},
        body={"type": "string", "maxLength": 10000},
    ),
    "a result and an error": {
        "anyOf": [_object(result=_NUMBER), _object(error=_object(code=_INTEGER, message=_STRING))]
    },
    "no type": {"properties": {"a": _STRING}, "required": ["a"]},
    "a title": {
        "title": "Answer",
        "type": "object",
        "properties": {"answer": {"title": "Answer", "type": "string"}},
    },
}

REAL_SCHEMAS: dict[str, Any] = {
    **{f"pydantic: {model.__name__}": model.model_json_schema() for model in _MODELS},
    **{f"zod: {name}": schema for name, schema in _ZOD.items()},
    **{f"OpenAPI: {name}": schema for name, schema in _OPENAPI.items()},
}
