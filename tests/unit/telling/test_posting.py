"""What every receiver's requests have in common: where they go, what they carry, and how each ending is taken."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.signals.ocsf import Ocsf
from broker.adapters.signals.posting import BadReceiverFileError, Poster
from broker.config.telling import OcsfSettings
from broker.ports.telling import Delivery, Fate
from tests.fakes.system import FakeClock
from tests.unit.telling.places import Answer, Place, a_message, settings_of, write

pytestmark = pytest.mark.usefixtures("socket_enabled")


def ocsf(folder: Path, url: str, **more: Any) -> Ocsf:
    settings = settings_of(folder, url, **more)
    assert isinstance(settings, OcsfSettings)
    return Ocsf(settings, FakeClock())


async def sent(folder: Path, url: str, **more: Any) -> Delivery:
    receiver = ocsf(folder, url, **more)
    try:
        return await receiver.deliver(a_message())
    finally:
        await receiver.close()


ENDINGS = {
    "taken": (Answer(status=200), Fate.TAKEN, "status 200", None),
    "accepted": (Answer(status=202), Fate.TAKEN, "status 202", None),
    "broken": (Answer(status=500), Fate.FAILED, "status 500", None),
    "asks for seconds": (Answer(status=503, headers={"Retry-After": "120"}), Fate.FAILED, "status 503", 120),
    "asks for a moment": (
        Answer(status=429, headers={"Retry-After": "Sun, 01 Mar 2026 12:03:00 GMT"}), Fate.FAILED, "status 429", 180,
    ),
    "asks for a moment that has passed": (
        Answer(status=429, headers={"Retry-After": "Sun, 01 Mar 2020 12:00:00 GMT"}), Fate.FAILED, "status 429", 0,
    ),
    "asks for nonsense": (Answer(status=503, headers={"Retry-After": "-1"}), Fate.FAILED, "status 503", None),
    "asks for ever": (Answer(status=503, headers={"Retry-After": "9" * 400}), Fate.FAILED, "status 503", None),
    "wants another login": (Answer(status=401), Fate.FAILED, "status 401", None),
    "is not there": (Answer(status=404), Fate.FAILED, "status 404", None),
    "does not want it": (Answer(status=422), Fate.REFUSED, "status 422", None),
    "finds it too large": (Answer(status=413), Fate.REFUSED, "status 413", None),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
async def test_each_status_says_whether_it_is_tried_again(place: Place, tmp_path: Path, name: str) -> None:
    answer, fate, what, seconds = ENDINGS[name]
    place.answers.append(answer)
    delivery = await sent(tmp_path, place.url)
    assert (delivery.fate, delivery.what) == (fate, what)
    assert delivery.retry_after == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["/other", "http://169.254.169.254/latest/meta-data/"])
async def test_a_redirect_is_not_followed(place: Place, tmp_path: Path, status: int, to: str) -> None:
    place.answers.append(Answer(status=status, headers={"Location": to}))
    delivery = await sent(tmp_path, place.url)
    assert delivery == Delivery(fate=Fate.FAILED, what=f"status {status}: a redirect, which is not followed")
    assert [one.path for one in place.got] == ["/events"]


async def test_a_certificate_of_another_name_gets_nothing(elsewhere: Place, tmp_path: Path) -> None:
    assert await sent(tmp_path, elsewhere.url) == Delivery(
        fate=Fate.FAILED, what="its certificate is not trusted"
    )
    assert not elsewhere.got


async def test_a_certificate_of_an_authority_that_is_not_named_gets_nothing(
    place: Place, tmp_path: Path
) -> None:
    delivery = await sent(tmp_path, place.url, ca_file=None)
    assert delivery.what == "its certificate is not trusted"
    assert not place.got


async def test_a_receiver_that_does_not_answer_is_waited_for_only_so_long(
    place: Place, tmp_path: Path
) -> None:
    place.open.clear()
    assert await sent(tmp_path, place.url, timeout="1s") == Delivery(
        fate=Fate.FAILED, what="no answer in time"
    )


async def test_nobody_there_and_no_tls_there_are_failures(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert await sent(tmp_path, f"https://127.0.0.1:{port}/") == Delivery(
        fate=Fate.FAILED, what="cannot be connected to"
    )


async def test_the_environment_s_proxy_means_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await sent(tmp_path, place.url)).fate is Fate.TAKEN


async def test_what_a_receiver_answers_is_neither_repeated_nor_kept(place: Place, tmp_path: Path) -> None:
    answer = Answer(status=503, headers={"Set-Cookie": "planted=1"}, body=b"planted " * 1_000_000)
    place.answers.extend([answer, Answer()])
    receiver = ocsf(tmp_path, place.url)
    delivery = await receiver.deliver(a_message())
    assert delivery == Delivery(fate=Fate.FAILED, what="status 503")
    assert (await receiver.deliver(a_message())).fate is Fate.TAKEN
    assert "Cookie" not in place.got[1].headers
    await receiver.close()


async def test_an_endless_answer_is_cut_off(place: Place, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, place.url)
    place.answers.append(Answer(status=400, body=b"x" * 5_000_000))
    poster = Poster(settings, FakeClock())
    answered = await poster.post(b"{}", {})
    assert len(answered.body) <= 4096
    await poster.close()


async def test_headers_are_read_from_their_files_each_time(place: Place, tmp_path: Path) -> None:
    headers = [{"name": "Authorization", "value_file": write(tmp_path, "login", "Splunk one\n")}]
    receiver = ocsf(tmp_path, place.url, headers=headers)
    await receiver.deliver(a_message())
    write(tmp_path, "login", "Splunk two\n")
    await receiver.deliver(a_message())
    (tmp_path / "login").unlink()
    gone = await receiver.deliver(a_message())
    await receiver.close()
    assert [one.headers["Authorization"] for one in place.got] == ["Splunk one", "Splunk two"]
    assert gone.fate is Fate.FAILED
    assert gone.what == f"{tmp_path}/login cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo", b"planted\xff", b"x" * 9000, b"a\x00b"])
def test_a_file_that_holds_no_line_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    headers = [{"name": "Authorization", "value_file": write(tmp_path, "login", content)}]
    with pytest.raises(BadReceiverFileError) as caught:
        ocsf(tmp_path, "https://siem.test", headers=headers)
    assert "planted" not in str(caught.value)


def test_an_authority_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    for content in ("no certificate", None):
        file = write(tmp_path, "bad.pem", content) if content else str(tmp_path / "gone.pem")
        with pytest.raises(BadReceiverFileError, match="ca_file"):
            ocsf(tmp_path, "https://siem.test", ca_file=file)
