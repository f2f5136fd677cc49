"""The mapping names every detector, and every identifier that it uses has a name."""

from __future__ import annotations

from importlib.resources import files

import pytest

from broker.anomaly.findings import DetectorName
from broker.anomaly.mapping import FILE, MappingError, read_mapping

TEXT = files("broker.anomaly").joinpath(FILE).read_text("utf-8")


def test_every_detector_is_mapped_to_both_lists() -> None:
    mapping = read_mapping(TEXT)
    assert set(mapping.entries) == set(DetectorName)
    for one in mapping.entries.values():
        assert all(identifier.startswith("AML.T") for identifier in one.atlas)
        assert all(identifier.startswith("ASI") for identifier in one.owasp_agentic)
        assert all(identifier.startswith("NHI") for identifier in one.owasp_nhi)
        assert one.atlas
        assert one.owasp_agentic


def test_no_name_is_left_over() -> None:
    mapping = read_mapping(TEXT)
    used = {
        identifier
        for one in mapping.entries.values()
        for identifier in (*one.atlas, *one.owasp_agentic, *one.owasp_nhi)
    }
    assert used == set(mapping.names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("=", "^not TOML$"),
        ("version = 2", "^version"),
        (TEXT.replace("[drift]", "[adrift]"), "^drift: a table"),
        (TEXT.replace('["AML.T0012", "AML.T0073"]', "[1]"), "^identity-misuse.atlas: a list"),
        (TEXT.replace('["AML.T0012", "AML.T0073"]', '["AML.T9999"]'), "^identity-misuse: an identifier"),
        (TEXT.replace('"Valid Accounts"', "3"), "^names"),
    ],
)
def test_what_is_no_mapping_is_refused(text: str, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        read_mapping(text)
