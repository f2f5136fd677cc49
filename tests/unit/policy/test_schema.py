"""The schema: the published file, and the arguments of the catalog's tools."""

from __future__ import annotations

import cedarpy
import pytest

from broker.adapters.policy.schema import partial, quoted, schema_for
from broker.domain.catalog import AttributeType
from tests.fakes.samples import a_catalog
from tests.unit.policy.world import a_tool, with_tools


def arguments_of(text: str) -> str:
    return text[text.index("type Arguments") :]


def test_it_has_each_argument_once_as_an_optional_attribute() -> None:
    one = a_tool("one", attributes={"b": AttributeType.INTEGER, "a": AttributeType.STRING})
    two = a_tool(
        "two", attributes={"a": AttributeType.STRING, "c": AttributeType.STRINGS, "d": AttributeType.BOOLEAN}
    )
    text = schema_for(with_tools(one, two))
    assert " ".join(arguments_of(text).split()) == (
        'type Arguments = { "a"?: String, "b"?: Long, "c"?: Set<String>, "d"?: Bool, };'
    )
    cedarpy.Schema.from_str(text)


def test_a_catalog_without_tools_has_a_schema_too() -> None:
    cedarpy.Schema.from_str(schema_for(a_catalog()))


def test_one_name_with_two_types_is_refused_with_both_tools() -> None:
    one = a_tool("one", attributes={"n": AttributeType.INTEGER})
    two = a_tool("two", attributes={"n": AttributeType.STRING})
    with pytest.raises(
        ValueError, match="'n' is of type integer in tool 'one' and of type string in tool 'two'"
    ):
        schema_for(with_tools(two, one))


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "ä", "in", "", "😀", "a?: Long, b"])
def test_names_are_quoted_whatever_is_in_them(name: str) -> None:
    schema = cedarpy.Schema.from_str(
        schema_for(with_tools(a_tool("one", attributes={name: AttributeType.STRING})))
    )
    condition = f"context.asserted.arguments has {quoted(name)}"
    text = f'permit(principal, action == Tasklease::Action::"call", resource) when {{ {condition} }};'
    assert cedarpy.validate_policies(text, schema).validation_passed
    other = text.replace(condition, f"{condition} && context.asserted.arguments[{quoted(name)}] == 1")
    assert not cedarpy.validate_policies(other, schema).validation_passed


@pytest.mark.parametrize(
    ("action", "kind"), [("declare", "TaskType"), ("acquire", "CredentialRole"), ("call", "Tool")]
)
def test_a_part_of_the_context_fits_the_partial_schema_and_nothing_wrong_does(action: str, kind: str) -> None:
    whole = schema_for(with_tools(a_tool("one", attributes={"n": AttributeType.INTEGER})))
    policies = "permit(principal, action, resource);"

    def answer(schema: str, context: str) -> cedarpy.Decision:
        request = {
            "principal": 'Tasklease::Instance::"x"',
            "action": f'Tasklease::Action::"{action}"',
            "resource": f'Tasklease::{kind}::"x"',
            "context": context,
        }
        return cedarpy.is_authorized(request, policies, "[]", schema).decision

    for context in ("{}", '{"hour": 1}', '{"scope_roles": ["a"], "environment": "e"}'):
        assert answer(whole, context) is cedarpy.Decision.NoDecision
        assert answer(partial(whole), context) is cedarpy.Decision.Allow
    for context in ('{"hour": "1"}', '{"our": 1}', '{"asserted": {}}', '{"scope_roles": [1]}'):
        assert answer(partial(whole), context) is cedarpy.Decision.NoDecision
