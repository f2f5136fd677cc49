"""Arguments against the catalog's JSON Schemas. Implements ports.arguments.ArgumentChecker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import jsonschema_rs

from broker.domain.catalog import Tool
from broker.domain.errors import FieldInvalidError, FieldViolation

_MOST_KEPT: Final = 1_000
_MOST_SAID: Final = 10


class SchemaArguments:
    """Compiles each schema once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Mapping[str, object], jsonschema_rs.Validator]] = OrderedDict()

    def check(self, tool: Tool, arguments: Mapping[str, object]) -> None:
        """See ports.arguments."""
        validator = self._validator(tool)
        instance = dict(arguments)
        if validator.is_valid(instance):
            return
        violations = []
        for error in validator.iter_errors(instance):
            path = ".".join(["arguments", *map(str, error.instance_path)])
            violations.append(FieldViolation(field=path, remedy=_remedy(error)))
            if len(violations) == _MOST_SAID:
                break
        raise FieldInvalidError(violations)

    def _validator(self, tool: Tool) -> jsonschema_rs.Validator:
        schema = tool.arguments
        found = self._kept.get(id(schema))  # what is kept keeps its schema, so that no other one gets its id
        if found is None:
            found = (schema, jsonschema_rs.validator_for(dict(schema), mask="…"))
            self._kept[id(schema)] = found
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found[1]


def _remedy(error: jsonschema_rs.ValidationError) -> str:
    """What the schema wants; the value itself is masked, because it may be anything."""
    return f"give what the tool's schema asks for: {error.message}"[:300]
