"""Effects: what has something in common, and that no argument names another resource than the one it is."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.domain.effects import EVERY_VERB, EVERYTHING, Effect, Verb, fill_in

DATABASE = "postgresql://db:5432"


def an_effect(resource: str, *verbs: Verb, destination: str = DATABASE) -> Effect:
    return Effect(verbs=frozenset(verbs) or EVERY_VERB, resource=resource, destination=destination)


def touch(one: str, other: str) -> bool:
    mine, others = an_effect(one), an_effect(other)
    assert mine.touches(others) is others.touches(mine)
    return mine.touches(others)


# What touches what -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("orders", "orders"),
        ("orders", "orders/17"),
        ("orders", "orders/17/lines"),
        (EVERYTHING, "orders/17"),
        (EVERYTHING, EVERYTHING),
        ("/", "orders"),
        ("Orders", "ORDERS/17"),
        ("/orders//17/", "orders/17"),
        ("orders/ 17 ", "orders/17"),
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),  # composed or not
        ("orders/17", "orders/\uff11\uff17"),  # wide digits
        ("orders/17", "orders/\u0661\u0667"),  # Arabic digits, which many programs read as numbers
        ("orders/17", "orders/1\u200b7"),  # a character that nobody sees
        ("orders", "\uff4f\uff52\uff44\uff45\uff52\uff53"),
        ("orders", "orders/."),
        ("orders/17", "orders/./17"),
        ("orders/17", "orders/18/../17"),
        ("customers", "orders/../customers/4"),
        ("orders", "orders/../customers/4"),  # whoever does not resolve it
        ("orders/17", "orders/18/.."),
        ("orders/17", "../../orders"),
        ("orders/17", "customers/.."),
        ("orders/17", "customers/\u2025"),  # one character that is two dots
    ],
)
def test_these_touch(one: str, other: str) -> None:
    assert touch(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("orders", "customers"),
        ("orders", "orders-archive"),
        ("orders/17", "orders/18"),
        ("orders/17", "orders/170"),
        ("orders/17/lines", "orders/17/notes"),
        ("orders/17", "orders/17%2Flines"),
        ("orders/17", "17/orders"),
        ("orders/17", "orders/..17"),
        ("orders/17", "orders/..."),
        ("orders", "\u043erders"),  # Cyrillic: another name to everybody
    ],
)
def test_these_do_not_touch(one: str, other: str) -> None:
    assert not touch(one, other)


def test_verbs_and_destinations_have_to_meet_as_well() -> None:
    reading = an_effect("orders", Verb.READ)
    assert reading.touches(an_effect("orders", Verb.READ, Verb.DELETE))
    assert reading.touches(an_effect("orders"))
    assert not reading.touches(an_effect("orders", Verb.DELETE, Verb.UPDATE))
    assert reading.touches(an_effect("orders", destination="PostgreSQL://DB:5432"))
    for elsewhere in ("postgresql://db:5433", "postgresql://db2:5432", "mysql://db:5432", ""):
        assert not reading.touches(an_effect("orders", destination=elsewhere))


PATHS = st.lists(
    st.sampled_from(["orders", "Orders", "17", "18", ".", "..", "", " ", "%2F"]), max_size=5
).map("/".join)
EFFECTS = st.builds(
    Effect,
    verbs=st.frozensets(st.sampled_from(Verb), min_size=1),
    resource=PATHS | st.text(max_size=5),
    destination=st.sampled_from(["", DATABASE, DATABASE.upper()]),
)


@given(EFFECTS, EFFECTS)
def test_touching_is_mutual_and_everything_touches_itself(one: Effect, other: Effect) -> None:
    assert one.touches(other) is other.touches(one)
    assert one.touches(one)
    whole = Effect(verbs=one.verbs, resource=EVERYTHING, destination=one.destination)
    assert one.touches(whole)


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        (an_effect("orders/17", Verb.DELETE), "delete orders/17 at postgresql://db:5432"),
        (an_effect(EVERYTHING), "anything everything at postgresql://db:5432"),
        (an_effect("mail", Verb.SEND, Verb.CREATE, destination=""), "create/send mail"),
    ],
)
def test_an_effect_is_said_to_people(effect: Effect, text: str) -> None:
    assert effect.as_text() == text


# What arguments name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "resource"),
    [
        ("17", "orders/17/lines"),
        (17, "orders/17/lines"),
        (17.0, "orders/17/lines"),
        (17.5, "orders/17.5/lines"),
        (0, "orders/0/lines"),
        (-0.0, "orders/0/lines"),
        (True, "orders/true/lines"),
        (False, "orders/false/lines"),
        (" 17\t", "orders/17/lines"),
        ("Ab c", "orders/Ab c/lines"),
        ("17/18", "orders/17%2F18/lines"),
        ("/", "orders/%2F/lines"),
        ("17%2F18", "orders/17%252F18/lines"),
        ("%", "orders/%25/lines"),
        (".", "orders/./lines"),
        ("..", "orders/../lines"),
        ("../customers", "orders/..%2Fcustomers/lines"),
        ("{order_id}", "orders/{order_id}/lines"),
        ("17\uff0f18", "orders/17%2F18/lines"),  # a wide slash
        ("\u2100", "orders/a%2Fc/lines"),  # one character that is three
        ("17\uff052F", "orders/17%252F/lines"),
        ("\u0661\u0667", "orders/17/lines"),
        ("1\u200b7\ufeff", "orders/17/lines"),
        ("a\nb\x00\u2028", "orders/a%0Ab%00/lines"),
        ("a\u2028b", "orders/a%E2%80%A8b/lines"),
        ("\ud800", "orders/%ED%A0%80/lines"),
        (float("inf"), "orders/inf/lines"),
        (float("nan"), "orders/nan/lines"),
    ],
)
def test_an_argument_is_one_segment(value: object, resource: str) -> None:
    assert fill_in("orders/{order_id}/lines", {"order_id": value, "other": "x"}) == resource


@pytest.mark.parametrize(
    "arguments",
    [{}, {"order_id": None}, {"other": "17"}]
    + [{"order_id": value} for value in ("", "  ", "\t\n", "\u00a0", "\u200b", [17, 18], {"a": 1}, [])],
)
def test_what_names_no_single_one_names_everything_below(arguments: dict[str, object]) -> None:
    assert fill_in("orders/{order_id}/lines", arguments) == "orders"
    assert fill_in("{order_id}/lines", arguments) == EVERYTHING


@pytest.mark.parametrize(
    ("template", "resource"),
    [
        ("", ""),
        ("orders", "orders"),
        ("{a}", "1"),
        ("{a}/{b}", "1/2"),
        ("{b}/x/{a}", "2/x/1"),
        ("{a}/{a}", "1/1"),
        ("orders/{missing}/{a}", "orders"),
        ("orders/order-{a}/lines", "orders"),
        ("orders/{a}{b}", "orders"),
        ("orders/{}", "orders"),
        ("orders/{", "orders"),
        ("orders/a}", "orders"),
    ],
)
def test_a_template_is_filled_in_segment_by_segment(template: str, resource: str) -> None:
    assert fill_in(template, {"a": 1, "b": "2"}) == resource


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
TRICKY = st.text("aA1 /%.{}2F5\\\n", max_size=8)


@given(PRINTABLE | TRICKY, PRINTABLE | TRICKY)
@example("a/b", "a%2Fb")
@example("%2F", "/")
@example("%", "%25")
@example("", "%")
@example("..", ".")
def test_two_values_name_two_resources(one: str, other: str) -> None:
    """Unless they differ by case, or by blanks around them, alone."""
    same = one.strip().casefold() == other.strip().casefold()
    names = [fill_in("orders/{id}", {"id": value}).casefold() for value in (one, other)]
    assert (names[0] == names[1]) is same


@given(st.text(), st.text())
def test_whatever_is_given_stays_where_it_was_put(one: str, other: str) -> None:
    resource = fill_in("orders/{a}/x/{b}/y", {"a": one, "b": other})
    segments = resource.split("/")
    assert segments[0] == "orders"
    assert len(segments) in {1, 3, 5}
    assert all(segments)
    assert segments[2::2] == ["x", "y"][: len(segments) // 2]
    assert resource.isprintable() or all(
        unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for sign in resource
    )
    resource.encode()  # whatever is written down can be
    assert touch(resource, "orders")


def test_no_character_at_all_leaves_its_segment() -> None:
    for number in range(sys.maxunicode + 1):
        resource = fill_in("{a}/x", {"a": f"q{chr(number)}q"})
        assert resource.count("/") == 1, hex(number)


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_denial_of_one_value_is_none_of_another(one: str, other: str) -> None:
    resources = [fill_in("orders/{id}", {"id": value}) for value in (one, other)]
    assert touch(resources[0], resources[0])
    plain = all(value.isascii() and value.strip() not in {"", ".", ".."} for value in (one, other))
    if plain:
        assert touch(*resources) is (one.strip().casefold() == other.strip().casefold())
