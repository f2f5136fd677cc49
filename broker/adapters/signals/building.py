"""Receivers as the settings name them."""

from __future__ import annotations

from collections.abc import Mapping

from broker.adapters.signals.event_tokens import EventTokens
from broker.adapters.signals.ocsf import Ocsf
from broker.adapters.signals.posting import BadReceiverFileError
from broker.adapters.signals.webhooks import Webhook
from broker.config.reading import ConfigError, Problem
from broker.config.telling import OcsfSettings, SetSettings, WebhookSettings
from broker.domain.messages import ReceiverKind
from broker.ports.system import Clock
from broker.ports.telling import NamedReceiver, Receiver


def receivers_of(
    tell: Mapping[str, WebhookSettings | OcsfSettings | SetSettings], clock: Clock
) -> dict[str, NamedReceiver]:
    """Each of them, with its files checked.

    Raises:
        ConfigError: some cannot be told; says everything that is wrong.
    """
    problems, receivers = [], {}
    for name, settings in tell.items():
        try:
            receiver = _receiver(settings, clock)
        except BadReceiverFileError as error:
            problems.append(Problem(file="settings", line=0, field=f"tell.{name}", what=str(error)))
            continue
        receivers[name] = NamedReceiver(
            name=name,
            kind=ReceiverKind(settings.kind),
            receiver=receiver,
            timeout=settings.timeout,
            told_from=settings.told_from,
        )
    if problems:
        raise ConfigError(problems)
    return receivers


def _receiver(settings: WebhookSettings | OcsfSettings | SetSettings, clock: Clock) -> Receiver:
    match settings:
        case WebhookSettings():
            return Webhook(settings, clock)
        case OcsfSettings():
            return Ocsf(settings, clock)
        case SetSettings():
            return EventTokens(settings, clock)
