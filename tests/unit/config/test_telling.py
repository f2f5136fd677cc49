"""Who outside is told: what the settings take, and that a rule of the catalog names nobody else."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from broker.adapters.catalog.files import CatalogFiles
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from broker.config.telling import OcsfSettings, SetSettings, WebhookSettings
from broker.domain.findings import Severity
from tests.unit.config.test_settings import problems
from tests.unit.config.texts import CATALOG, SETTINGS, write

GOOD = """\
tell:
  soc:
    kind: webhook
    url: https://soc.test/hooks/tasklease
    secret_file: soc.secret
    old_secret_file: /run/old.secret
    from: high
  siem:
    kind: ocsf
    url: https://siem.test:8088/services/collector
    ca_file: siem-ca.pem
    headers: [{name: Authorization, value_file: siem.login}]
    from: low
    timeout: 2s
  idp:
    kind: set
    url: http://127.0.0.1:9000/events
    issuer: https://tasklease.test
    audience: https://idp.test
    key_file: events.pem
    key_id: key-1
"""


def test_each_kind_is_taken_with_files_below_the_settings(tmp_path: Path) -> None:
    tell = load_settings(write(tmp_path, SETTINGS + GOOD, "broker.yaml")).tell
    soc, siem, idp = tell["soc"], tell["siem"], tell["idp"]
    assert isinstance(soc, WebhookSettings)
    assert (soc.secret_file, soc.old_secret_file) == (tmp_path / "soc.secret", Path("/run/old.secret"))
    assert (soc.told_from, soc.timeout) == (Severity.HIGH, timedelta(seconds=5))
    assert isinstance(siem, OcsfSettings)
    assert siem.ca_file == tmp_path / "siem-ca.pem"
    assert [(one.name, one.value_file) for one in siem.headers] == [
        ("Authorization", tmp_path / "siem.login")
    ]
    assert isinstance(idp, SetSettings)
    assert (idp.key_file, idp.key_id, idp.told_from) == (tmp_path / "events.pem", "key-1", None)


def test_nobody_is_told_unless_the_settings_say_so(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, SETTINGS, "broker.yaml")).tell == {}


WRONG = {
    "no kind": ("    kind: webhook\n", "", "tell.soc.kind", "is missing: add it"),
    "another kind": ("kind: webhook", "kind: mail", "tell.soc.kind", "give one of 'webhook', 'ocsf', 'set'"),
    "plain http": ("https://soc.test", "http://soc.test", "tell.soc.url", "plain http is for loopback only"),
    "no URL": ("https://soc.test/hooks/tasklease", "soc", "tell.soc.url", "give an https URL"),
    "a file": ("https://soc.test/hooks/tasklease", "file:///etc/passwd", "tell.soc.url", "give an https URL"),
    "half an address": ("https://soc.test/hooks", "https://[::1/hooks", "tell.soc.url", "give an https URL"),
    "a login in the URL": ("https://soc.test", "https://u:pw@soc.test", "tell.soc.url", "leave the login out"),
    "a secret itself": ("secret_file: soc.secret", "secret: whsec_x", "tell.soc.secret", "secrets do not belong here"),
    "no secret": ("    secret_file: soc.secret\n", "", "tell.soc.secret_file", "is missing"),
    "a secret of a SIEM": ("ca_file: siem-ca.pem", "secret_file: x", "tell.siem.secret_file", "unknown key"),
    "a header of ours": ("name: Authorization", "name: Webhook-Id", "tell.siem.headers.0.name", "the broker's own"),
    "a header with a line": ("name: Authorization", "name: 'A: b'", "tell.siem.headers.0.name", "match pattern"),
    "another severity": ("from: high", "from: awful", "tell.soc.from", "input should be"),
    "long patience": ("timeout: 2s", "timeout: 1m", "tell.siem.timeout", "less than or equal"),
    "no issuer": ("    issuer: https://tasklease.test\n", "", "tell.idp.issuer", "is missing"),
    "an odd issuer": ("issuer: https://tasklease.test", "issuer: me", "tell.idp.issuer", "match pattern"),
    "a bad name": ("  soc:", "  So C:", "tell.So C", "match pattern"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_receiver_is_named(tmp_path: Path, name: str) -> None:
    old, new, field, words = WRONG[name]
    assert old in GOOD
    text = re.sub(re.escape(old), lambda _: new, GOOD, count=1)
    found = problems(write(tmp_path, SETTINGS + text, "broker.yaml"))
    assert [one for one in found if one.field == field and words in one.what], [str(one) for one in found]


def test_there_are_only_so_many_receivers(tmp_path: Path) -> None:
    one = "{kind: ocsf, url: 'https://siem.test'}"
    text = "tell:\n" + "".join(f"  siem-{number}: {one}\n" for number in range(17))
    (problem,) = problems(write(tmp_path, SETTINGS + text, "broker.yaml"))
    assert "at most 16 items" in problem.what


async def test_a_catalog_that_names_receivers_is_held_against_them_at_the_start_and_at_each_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = CATALOG + "answers:\n  - {do: note, tell: [socc]}\n"
    files = CatalogFiles(write(tmp_path, CATALOG), receivers={"soc"})
    before = files.current()
    write(tmp_path, told)
    assert not await files.reload_if_changed()
    assert files.current() is before
    assert "REFUSED" in caplog.text
    with pytest.raises(ConfigError) as caught:
        CatalogFiles(tmp_path / "catalog.yaml", receivers={"soc"})
    (problem,) = caught.value.problems
    assert problem.what.startswith("there is no receiver 'socc' (did you mean 'soc'?) in the settings")
    write(tmp_path, told.replace("socc", "soc"))
    assert await files.reload_if_changed()
