from __future__ import annotations

from broker.devstack.parts import REPOSITORY
from broker.domain.engines import ENGINES, Engine, as_markdown


def test_of_every_engine_it_is_said_what_revoking_does() -> None:
    assert set(ENGINES) == set(Engine)
    assert all(facts.revoking and facts.remains for facts in ENGINES.values())
    assert not ENGINES[Engine.AWS_STS].can_revoke


def test_the_documentation_says_the_same() -> None:
    assert as_markdown() in (REPOSITORY / "docs/catalog.md").read_text()
