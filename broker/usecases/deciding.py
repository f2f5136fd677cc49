"""Asking the policy engine, so that its failure is a denial (rule R5), and turning a denial into an error."""

from __future__ import annotations

import logging
from typing import NoReturn

from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Verdict
from broker.domain.errors import (
    AgentClassUnknownError,
    DenialClass,
    DeniedError,
    EffectDeniedError,
    EnvironmentNotAllowedError,
    FingerprintChangedError,
    PolicyDeniedError,
    RoleNotAllowedError,
    StepNotAllowedError,
    TaskTypeNotAllowedError,
    ToolNotAllowedError,
)
from broker.ports.policy import PolicyEngine

logger = logging.getLogger(__name__)

_ERRORS: dict[str, type[DeniedError]] = {
    error.reason: error
    for error in (
        AgentClassUnknownError,
        EffectDeniedError,
        EnvironmentNotAllowedError,
        FingerprintChangedError,
        PolicyDeniedError,
        RoleNotAllowedError,
        StepNotAllowedError,
        TaskTypeNotAllowedError,
        ToolNotAllowedError,
    )
}

ENGINE_FAILED = Decision(
    verdict=Verdict.DENY,
    policies=("engine-failed",),
    reason=PolicyDeniedError.reason,
    text="the request could not be decided, so it is denied",
    denial_class=DenialClass.TRANSIENT,
)


def asked(
    policy: PolicyEngine, context: DeclareContext | AcquireContext | CallContext, catalog: Catalog
) -> Decision:
    """What `policy` says, whichever it is about."""
    match context:
        case CallContext():
            return policy.decide_call(context, catalog)
        case AcquireContext():
            return policy.decide_acquisition(context, catalog)
        case DeclareContext():
            return policy.decide_declaration(context, catalog)


def decide(
    policy: PolicyEngine, context: DeclareContext | AcquireContext | CallContext, catalog: Catalog
) -> Decision:
    """The same; whatever it raises is a denial."""
    try:
        return asked(policy, context, catalog)
    except Exception:
        logger.exception("policy engine failed; denied")
        return ENGINE_FAILED


def refuse(decision: Decision) -> NoReturn:
    """Raise the error that `decision`, a denial, stands for."""
    error = _ERRORS.get(decision.reason, PolicyDeniedError)(decision.text)
    if decision.denial_class is not None:
        error.metadata = {**error.metadata, "denial_class": decision.denial_class.value}
    raise error
