"""Let an enforcer ask on behalf of an agent instance: one of the catalog's classes, and not quarantined."""

from __future__ import annotations

from datetime import timedelta

from broker.domain.errors import AgentClassUnknownError, InstanceQuarantinedError
from broker.domain.identifiers import RequestId
from broker.domain.peer import VerifiedOperator
from broker.domain.spiffe import AgentIdentity, SpiffeId
from broker.ports.identity import Quarantine
from broker.ports.policy import CatalogSource
from broker.usecases.caller import EnforcingCaller


class EnforceFor:
    """See the module. Whose a task is, is asked later, as of everybody (rule R7)."""

    def __init__(self, *, catalogs: CatalogSource, quarantine: Quarantine) -> None:
        self._catalogs = catalogs
        self._quarantine = quarantine

    def __call__(
        self,
        enforcer: VerifiedOperator,
        subject: SpiffeId,
        *,
        request_id: RequestId,
        time_left: timedelta | None = None,
    ) -> EnforcingCaller:
        """The enforcer, as who asks for `subject`.

        Raises:
            AgentClassUnknownError: no instance of a class that the catalog has in that trust domain.
            InstanceQuarantinedError: quarantined.
        """
        identity = AgentIdentity.of(subject)
        catalog = self._catalogs.current()
        if identity is None or catalog.agent_class(subject.trust_domain, identity.agent_class) is None:
            text = "the subject is no instance of an agent class of the catalog"
            raise AgentClassUnknownError(text)
        if self._quarantine.holds(subject):
            raise InstanceQuarantinedError
        return EnforcingCaller(enforcer=enforcer, subject=subject, request_id=request_id, time_left=time_left)
