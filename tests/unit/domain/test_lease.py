"""The lease's state machine: exactly the transitions that are drawn, along whatever path."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.errors import IllegalTransitionError
from broker.domain.identifiers import VaultLeaseId
from broker.domain.lease import Lease, LeaseState, RevokeCause
from tests.fakes.samples import a_lease
from tests.fakes.system import NOON

Step = Callable[[Lease, datetime], Lease]


def issue(lease: Lease, at: datetime) -> Lease:
    return lease.issued(
        vault_lease_id=VaultLeaseId("database/creds/orders/1"),
        at=at,
        expires_at=at + timedelta(minutes=1),
        renewable=True,
    )


def revoke(lease: Lease, at: datetime) -> Lease:
    return lease.revoking(RevokeCause.RELEASED, at)


def doubt(lease: Lease, at: datetime) -> Lease:
    return lease.revoking(RevokeCause.IN_DOUBT, at)


def confirm(lease: Lease, at: datetime) -> Lease:
    return lease.revoked(at)


def void(lease: Lease, at: datetime) -> Lease:
    return lease.voided(at)


STEPS = (issue, revoke, doubt, confirm, void)
DRAWN: dict[tuple[LeaseState, Step], LeaseState] = {
    (LeaseState.INTENDED, issue): LeaseState.LIVE,
    (LeaseState.INTENDED, revoke): LeaseState.REVOKING,
    (LeaseState.INTENDED, doubt): LeaseState.REVOKING,
    (LeaseState.INTENDED, void): LeaseState.VOID,
    (LeaseState.LIVE, revoke): LeaseState.REVOKING,
    (LeaseState.LIVE, doubt): LeaseState.REVOKING,
    (LeaseState.REVOKING, confirm): LeaseState.REVOKED,
}
PATHS = st.lists(st.sampled_from(STEPS), max_size=12)


@pytest.mark.parametrize("state", LeaseState)
@pytest.mark.parametrize("step", STEPS)
def test_a_transition_is_as_drawn_or_refused(state: LeaseState, step: Step) -> None:
    lease = a_lease(state=state)
    wanted = DRAWN.get((state, step))
    if wanted is not None:
        assert step(lease, NOON).state is wanted
        return
    with pytest.raises(IllegalTransitionError) as caught:
        step(lease, NOON)
    assert str(caught.value).startswith(f"{lease.lease_id}: no transition from {state.value} to ")


@given(PATHS)
def test_along_every_path_what_is_final_stays_and_what_is_known_is_kept(path: list[Step]) -> None:
    lease, at = a_lease(), NOON
    seen = [lease]
    for step in path:
        at += timedelta(seconds=1)
        try:
            lease = step(lease, at)
        except IllegalTransitionError:
            assert lease is seen[-1]
            continue
        seen.append(lease)
    states = [item.state for item in seen]
    assert len(set(states)) == len(states)  # no state is come back to
    assert not any(item.state.is_final for item in seen[:-1])  # nothing follows a final one
    for earlier, later in pairwise(seen):
        for field in (
            "lease_id",
            "task_id",
            "role",
            "accessor",
            "idempotency_key",
            "max_expires_at",
            "intended_at",
        ):
            assert getattr(later, field) == getattr(earlier, field)
        if earlier.vault_lease_id is not None:
            assert later.vault_lease_id == earlier.vault_lease_id
    times = [when for when in (lease.issued_at, lease.revoking_since, lease.revoked_at) if when is not None]
    assert times == sorted(times)
    assert (lease.revoked_at is not None) == lease.state.is_final
    assert (lease.next_attempt_at is not None) == (lease.state is LeaseState.REVOKING)
    assert (lease.revoke_cause is not None) == (lease.state in {LeaseState.REVOKING, LeaseState.REVOKED})
    if LeaseState.REVOKED in states:
        assert LeaseState.REVOKING in states


@given(PATHS)
def test_a_lease_that_was_live_is_never_void(path: list[Step]) -> None:
    lease = issue(a_lease(), NOON)
    for step in path:
        try:
            lease = step(lease, NOON)
        except IllegalTransitionError:
            continue
    assert lease.state is not LeaseState.VOID
    assert lease.vault_lease_id is not None


def test_final_is_what_the_backend_holds_nothing_of() -> None:
    assert {state for state in LeaseState if state.is_final} == {LeaseState.REVOKED, LeaseState.VOID}


@pytest.mark.parametrize("cause", RevokeCause)
def test_a_key_is_free_again_when_nothing_was_delivered_under_it(cause: RevokeCause) -> None:
    delivered = cause not in {RevokeCause.IN_DOUBT, RevokeCause.UNDELIVERED}
    lease = a_lease()
    assert lease.holds_key
    assert lease.revoking(cause, NOON).holds_key is delivered
    assert lease.revoking(cause, NOON).revoked(NOON).holds_key is delivered
    assert not lease.voided(NOON).holds_key
