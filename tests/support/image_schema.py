"""The JSON schemas of the OCI image specification (tests/data/image-spec), as validators by the names of the files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import referencing.jsonschema

SCHEMAS = Path(__file__).parent.parent / "data/image-spec"


def _load(path: Path) -> Any:
    """A schema without its ids: they are addresses, and the references beside them are names of files."""

    def without_ids(found: Any) -> Any:
        if isinstance(found, dict):
            return {
                name: without_ids(member)
                for name, member in found.items()
                if not (name == "id" and str(member).startswith("https:"))
            }
        return [without_ids(member) for member in found] if isinstance(found, list) else found

    return without_ids(json.loads(path.read_text()))


@cache
def validator(name: str) -> Any:
    """A validator for what the file *name* describes; `.validate(document)` raises jsonschema.ValidationError."""
    registry: Any = referencing.Registry().with_resources(
        (path.name, referencing.jsonschema.DRAFT4.create_resource(_load(path)))
        for path in SCHEMAS.glob("*.json")
    )
    return jsonschema.Draft4Validator(_load(SCHEMAS / name), registry=registry)
