"""Who outside is told of findings: the `tell` table of the broker's configuration file.

What always holds: a secret is in a file of its own that is named here, never in this table; what leaves goes over TLS, but for
loopback; a rule of the catalog names receivers of this table alone.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.config.fields import Duration, Name
from broker.domain.findings import Severity
from broker.domain.hosts import is_loopback

MOST_RECEIVERS: Final = 16
_MOST_HEADERS: Final = 8
_OWN_HEADERS: Final = {
    "accept", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
    "transfer-encoding", "user-agent", "webhook-id", "webhook-signature", "webhook-timestamp",
}  # fmt: skip


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class HeaderSettings(_Model):
    """A header of each request, with a value that is read from a file each time."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    value_file: Path

    @model_validator(mode="after")
    def _not_ours(self) -> Self:
        if self.name.lower() in _OWN_HEADERS:
            message = "name: this header is the broker's own: leave it out"
            raise ValueError(message)
        return self


class _ReceiverSettings(_Model):
    url: Annotated[str, Field(max_length=2048)]
    ca_file: Path | None = None
    headers: Annotated[tuple[HeaderSettings, ...], Field(max_length=_MOST_HEADERS)] = ()
    told_from: Annotated[Severity | None, Field(alias="from")] = None
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(seconds=10))] = timedelta(
        seconds=5
    )

    @model_validator(mode="after")
    def _url(self) -> Self:
        message = "url: give an https URL such as https://siem.example:8088/events"
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise ValueError(message) from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or parts.fragment:
            raise ValueError(message)
        if "@" in parts.netloc:
            message = "url: leave the login out, and name a file that holds it in headers"
            raise ValueError(message)
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            message = "url: plain http is for loopback only: use https"
            raise ValueError(message)
        return self


class WebhookSettings(_ReceiverSettings):
    """JSON, signed as Standard Webhooks says."""

    kind: Literal["webhook"]
    secret_file: Path
    old_secret_file: Path | None = None


class OcsfSettings(_ReceiverSettings):
    """OCSF detection findings: for a SIEM."""

    kind: Literal["ocsf"]


class SetSettings(_ReceiverSettings):
    """Security event tokens, pushed."""

    kind: Literal["set"]
    issuer: Annotated[str, Field(pattern=r"^https://\S+$", max_length=512)]
    audience: Annotated[str, Field(pattern=r"^\S+$", max_length=512)]
    key_file: Path
    key_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] = None


ReceiverSettings = Annotated[WebhookSettings | OcsfSettings | SetSettings, Field(discriminator="kind")]
Tell = Annotated[dict[Name, ReceiverSettings], Field(max_length=MOST_RECEIVERS)]

Some = TypeVar("Some", bound=_ReceiverSettings)

_FILES: Final = ("ca_file", "secret_file", "old_secret_file", "key_file")


def below(folder: Path, receiver: Some) -> Some:
    """The same, with its files below `folder` where they are not absolute."""
    update: dict[str, object] = {
        name: folder / path for name in _FILES if (path := getattr(receiver, name, None)) is not None
    }
    update["headers"] = tuple(
        one.model_copy(update={"value_file": folder / one.value_file}) for one in receiver.headers
    )
    return receiver.model_copy(update=update)
