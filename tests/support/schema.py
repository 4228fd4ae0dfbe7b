"""The JSON schemas of the OCI runtime specification (tests/runtime/schema), and every field that they have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import referencing.jsonschema

SCHEMA = Path(__file__).parent.parent / "runtime" / "schema"
Document = dict[str, Any]


def load(name: str) -> Document:
    found: Document = json.loads((SCHEMA / name).read_text())
    return found


REGISTRY: Any = referencing.Registry().with_resources(
    (path.name, referencing.jsonschema.DRAFT4.create_resource(load(path.name)))
    for path in SCHEMA.glob("*.json")
)
ELSEWHERE = ("solaris", "windows", "vm", "zos", "freebsd")


def config_schema() -> Document:
    """The schema, without what is for other systems (whose files are not here)."""
    schema = load("config-schema.json")
    for name in ELSEWHERE:
        schema["properties"].pop(name)
    return schema


VALIDATOR = jsonschema.Draft4Validator(config_schema(), registry=REGISTRY)


def resolved(schema: Document, file: str) -> tuple[Document, str]:
    """Through references, to where something is said."""
    while "$ref" in schema:
        name, _, pointer = schema["$ref"].partition("#")
        file = name or file
        found: Any = load(file)
        for part in filter(None, pointer.split("/")):
            found = found[part]
        schema = found
    return schema, file


def fields(schema: Document, file: str, path: str = "") -> Iterator[tuple[str, Document, str]]:
    """Every field of the schema: its path, what is said of it, and in which file."""
    schema, file = resolved(schema, file)
    parts = [*schema.get("allOf", []), *schema.get("anyOf", [])]
    for part in parts:
        yield from fields(part, file, path)
    for name, below in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, *resolved(below, file)
        yield from fields(below, file, here)
    if isinstance(schema.get("additionalProperties"), dict):
        yield f"{path}.*", *resolved(schema["additionalProperties"], file)
        yield from fields(schema["additionalProperties"], file, f"{path}.*")
    if "items" in schema:
        yield f"{path}[]", *resolved(schema["items"], file)
        yield from fields(schema["items"], file, f"{path}[]")


EVERY = {path: (schema, file) for path, schema, file in fields(config_schema(), "config-schema.json")}
