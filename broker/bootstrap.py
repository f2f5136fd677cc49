"""Chooses adapters, wires everything, runs it. The only place that knows them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final

from broker.adapters.backends.observing import BackendVerifier
from broker.adapters.catalog.arguments import SchemaArguments
from broker.adapters.catalog.files import CatalogFiles
from broker.adapters.observe.issuer import WatchedIssuer
from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.files import CandidateFiles, PolicyFiles
from broker.adapters.signals.building import receivers_of
from broker.adapters.spire.https_tls import shown_by
from broker.adapters.spire.identity import TrustBundle, WorkloadIdentity
from broker.adapters.spire.tls import server_credentials
from broker.adapters.spire.verifier import SvidVerifier
from broker.adapters.store.following import AuditFollower
from broker.adapters.store.opening import open_store
from broker.adapters.store.postgresql import PostgresStore
from broker.adapters.store.quarantine import StoredQuarantine
from broker.adapters.store.sqlite import SqliteStore
from broker.adapters.system.clock import FollowingClock
from broker.adapters.system.ids import RandomIds
from broker.adapters.system.steps import NoSteps
from broker.adapters.vault.as_broker import AsBroker
from broker.adapters.vault.connection import VaultConnection
from broker.adapters.vault.health import VaultHealth
from broker.adapters.vault.issuer import VaultCredentialIssuer
from broker.adapters.vault.login import VaultLogin
from broker.adapters.vault.view import VaultView
from broker.bootstrap_anomalies import Anomalies
from broker.bootstrap_doors import FOR_FIRST_SVID, open_authzen_door, open_jwt_door
from broker.bootstrap_observing import Observing
from broker.bootstrap_signals import SignalsIn
from broker.config.settings import Settings
from broker.domain.changes import Change
from broker.domain.findings import RecordedFinding
from broker.ports.system import Clock, Steps
from broker.server.anomalies import AnomalyServicer
from broker.server.authzen import Authzen
from broker.server.credentials import CredentialServicer
from broker.server.gate import Gate
from broker.server.https.door import HttpsDoor
from broker.server.https.open_door import OpenDoor
from broker.server.instances import InstanceServicer
from broker.server.leases import LeaseServicer
from broker.server.quarantines import QuarantineServicer
from broker.server.rate_limit import RateLimit
from broker.server.rounds import Round, run_rounds
from broker.server.serving import GrpcServer
from broker.server.tasks import TaskServicer
from broker.server.tools import ToolServicer
from broker.usecases.acquire_credential import AcquireCredential
from broker.usecases.authorize_action import AuthorizeAction
from broker.usecases.chains import Chains
from broker.usecases.complete_task import CompleteTask
from broker.usecases.declare_task import DeclareTask
from broker.usecases.end_quarantined import EndQuarantined
from broker.usecases.end_task import EndTask
from broker.usecases.enforce_for import EnforceFor
from broker.usecases.follow_changes import FollowChanges
from broker.usecases.keep_task_alive import KeepTaskAlive
from broker.usecases.list_tools import ListTools
from broker.usecases.look_at_tasks import LookAtTasks
from broker.usecases.noticing import NoticedBy
from broker.usecases.operate_findings import OperateFindings
from broker.usecases.operate_leases import OperateLeases
from broker.usecases.quarantine import QuarantineInstances
from broker.usecases.reconcile import Reconcile
from broker.usecases.record_refusal import RecordRefusal
from broker.usecases.release_credential import ReleaseCredential
from broker.usecases.renew_lease import RenewLease
from broker.usecases.report_ended import ReportEnded
from broker.usecases.report_outcome import ReportOutcome
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.task_events import TaskEvents
from broker.usecases.task_grants import TaskGrants
from broker.usecases.tell_others import TellOthers
from broker.usecases.watch_instances import WatchInstances
from broker.usecases.watch_over_tasks import WatchOverTasks

logger = logging.getLogger(__name__)

_SWEEP: Final = timedelta(seconds=0.5)
_RENEW: Final = timedelta(seconds=1)
_REFRESH: Final = timedelta(seconds=1)
_RECONCILE: Final = timedelta(minutes=5)


async def serve(settings: Settings, *, steps: Steps | None = None) -> None:
    """Run a broker until SIGTERM or SIGINT, then stop it gracefully.

    Raises:
        NoIdentityError: SPIRE gives no SVID, or not the configured one.
        ConfigError: the catalog cannot be used.
        StoreInUseError, SchemaVersionError: the store cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for how in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(how, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        broker = await _Broker.start(settings, stack, steps or NoSteps())
        logger.info("serving on port %d as %s", broker.server.port, settings.own_id)
        await stop.wait()
        logger.info("stopping")
        await broker.stop(settings.shutdown_grace)
    logger.info("stopped")


class _Broker:
    """Everything of one running broker."""

    def __init__(
        self,
        server: GrpcServer,
        drains: list[Callable[[], Coroutine[Any, Any, object]]],
        doors: Sequence[HttpsDoor | OpenDoor | None],
    ) -> None:
        self.server = server
        self._drains = drains
        self._doors = [door for door in doors if door is not None]

    async def stop(self, grace: timedelta) -> None:
        drains: list[Callable[[], Awaitable[object]]] = [*self._drains]
        if self._doors:  # beside gRPC's: all close at once
            closed = asyncio.gather(*(door.stop(grace) for door in self._doors))
            drains.insert(0, lambda: closed)
        await self.server.stop(grace=grace, drains=drains)

    @classmethod
    async def start(  # noqa: PLR0915 - one statement a part
        cls, settings: Settings, stack: contextlib.AsyncExitStack, steps: Steps
    ) -> _Broker:
        ids, events = RandomIds(), TaskEvents()
        catalogs = CatalogFiles(
            settings.catalog, trust_domain=settings.trust_domain, receivers=settings.tell.keys()
        )
        policies = PolicyFiles(settings.policies, catalogs)
        candidates = CandidateFiles(settings.shadow_policies, catalogs) if settings.shadow_policies else None
        store, clock = await _state(settings, stack)
        receivers = receivers_of(settings.tell, clock)
        quarantine = StoredQuarantine(store)
        await quarantine.refresh()

        identity = WorkloadIdentity(endpoint_socket=settings.endpoint_socket, expected_id=settings.own_id)
        stack.callback(identity.close)
        await identity.start(patience=FOR_FIRST_SVID)
        connection = VaultConnection(
            address=settings.vault.address,
            ca_file=settings.vault.ca_file,
            namespace=settings.vault.namespace,
            issue_workers=settings.vault.issue_workers,
            revoke_workers=settings.vault.revoke_workers,
        )
        stack.callback(connection.close)
        login = VaultLogin(
            connection=connection,
            fetch_jwt_svid=identity.fetch_jwt_svid,
            auth_mount=settings.vault.auth_mount,
            auth_role=settings.vault.auth_role,
            audience=settings.vault.audience,
            clock=clock,
        )
        as_broker = AsBroker(connection=connection, login=login)
        observing = Observing(settings, stack, clock)
        events.heard = observing.metrics.heard
        vault = VaultCredentialIssuer(
            as_broker=as_broker, token_role=settings.vault.token_role, store=await store.identity()
        )
        issuer = WatchedIssuer(vault, observing.observer)
        verifier = BackendVerifier(vault.fetch_for_broker)
        stack.push_async_callback(verifier.close)
        timeout = settings.vault.timeout

        grants = TaskGrants(issuer=issuer, store=store, clock=clock, timeout=timeout)
        revoke_leases = RevokeLeases(
            store=store,
            issuer=issuer,
            clock=clock,
            ids=ids,
            steps=steps,
            events=events,
            actor=settings.own_id,
            timeout=timeout,
            catalogs=catalogs,
            verifier=verifier,
        )
        policy = BoundedPolicy(CatalogBoundsPolicy(), policies, candidates)
        chains, noticed = Chains(store), NoticedBy()
        acquire = AcquireCredential(
            store=store,
            catalogs=catalogs,
            policy=policy,
            issuer=issuer,
            grants=grants,
            revoke_leases=revoke_leases,
            clock=clock,
            ids=ids,
            steps=steps,
            timeout=timeout,
            chains=chains,
            notice=noticed,
            decided=observing.metrics.decided,
        )
        revoke_leases.being_made = lambda: acquire.being_made
        end_task = EndTask(
            store=store,
            grants=grants,
            acquire=acquire,
            revoke_leases=revoke_leases,
            events=events,
            steps=steps,
        )
        renew = RenewLease(
            store=store, catalogs=catalogs, issuer=issuer, events=events, clock=clock, timeout=timeout
        )
        watch = WatchOverTasks(
            store=store,
            catalogs=catalogs,
            end_task=end_task,
            renew_lease=renew,
            revoke_leases=revoke_leases,
            clock=clock,
            actor=settings.own_id,
        )
        complete = CompleteTask(store=store, end_task=end_task, clock=clock)
        keep_alive = KeepTaskAlive(store=store, events=events, clock=clock)

        def is_listed(trust_domain: str) -> bool:
            # SPIRE federates for many reasons: who has no agent class in the catalog is unlisted (R5).
            return trust_domain == settings.trust_domain or trust_domain in catalogs.current().trust_domains

        def bundle_of(trust_domain: str) -> TrustBundle | None:
            return identity.bundle(trust_domain) if is_listed(trust_domain) else None

        jwt_door = await open_jwt_door(settings, stack, is_listed, quarantine, clock)
        jwt_listen = (
            (settings.jwt_svids.listen, server_credentials(identity, demand_certificate=False))
            if settings.jwt_svids is not None
            else None
        )
        end_quarantined = EndQuarantined(
            store=store, end_task=end_task, revoke_leases=revoke_leases, clock=clock, actor=settings.own_id
        )
        quarantine_instances = QuarantineInstances(
            store=store,
            memory=quarantine,
            end_quarantined=end_quarantined,
            events=events,
            clock=clock,
            steps=steps,
        )
        anomalies = Anomalies(
            settings,
            store=store,
            catalogs=catalogs,
            end_task=end_task,
            end_quarantined=end_quarantined,
            revoke_leases=revoke_leases,
            quarantine=quarantine,
            events=events,
            clock=clock,
            steps=steps,
            metrics=observing.metrics,
            noticed=noticed,
        )
        reconcile = Reconcile(
            store=store,
            view=VaultView(as_broker),
            issuer=issuer,
            clock=clock,
            actor=str(settings.own_id),
            timeout=timeout,
            heard=observing.metrics.reconciled,
        )

        async def reconcile_in_turn() -> None:
            if await store.take_turn("reconcile", lasting=_RECONCILE * 1.5):
                await reconcile.round()

        report_ended = ReportEnded(
            store=store,
            end_task=end_task,
            revoke_leases=revoke_leases,
            clock=clock,
            notice=noticed,
            forget=anomalies.see.forget,
        )
        peers = SvidVerifier(bundle_of=bundle_of, quarantine=quarantine, clock=clock)
        record_refusal = RecordRefusal(store=store, clock=clock)
        rate_limit = RateLimit(
            rate=settings.limits.calls_per_second_per_instance, burst=settings.limits.burst
        )
        list_tools = ListTools(store=store, catalogs=catalogs, policy=policy, chains=chains, clock=clock)
        authorize = AuthorizeAction(
            store=store,
            catalogs=catalogs,
            policy=policy,
            arguments=SchemaArguments(),
            chains=chains,
            end_task=end_task,
            clock=clock,
            ids=ids,
            steps=steps,
            notice=noticed,
            decided=observing.metrics.decided,
        )
        gate = Gate(
            verifier=peers,
            jwt_door=jwt_door,
            operators=settings.who_operates(),
            record_refusal=record_refusal,
            rate_limit=rate_limit,
            max_concurrent_calls=settings.limits.max_concurrent_calls,
            clock=clock,
            ids=ids,
            observer=observing.observer,
            see=anomalies.see,
        )
        signals = SignalsIn(
            settings, store=store, catalogs=catalogs, answer_findings=anomalies.answers, clock=clock
        )
        if isinstance(store, SqliteStore):
            store.on_their_way = lambda: gate.calls
        operate_findings = OperateFindings(store=store, clock=clock)
        server = GrpcServer(
            tasks=TaskServicer(
                declare=DeclareTask(
                    store=store,
                    catalogs=catalogs,
                    policy=policy,
                    issuer=issuer,
                    grants=grants,
                    clock=clock,
                    ids=ids,
                    steps=steps,
                    timeout=timeout,
                    notice=noticed,
                    decided=observing.metrics.decided,
                ),
                look=LookAtTasks(store=store),
                keep_alive=keep_alive,
                complete=complete,
                stopping=gate.stopping,
                clock=clock,
            ),
            credentials=CredentialServicer(
                acquire=acquire,
                renew=renew,
                release=ReleaseCredential(store=store, revoke_leases=revoke_leases, clock=clock),
            ),
            quarantines=QuarantineServicer(quarantine=quarantine_instances),
            instances=InstanceServicer(report_ended=report_ended),
            leases=LeaseServicer(
                leases=OperateLeases(store=store, revoke_leases=revoke_leases, clock=clock),
                reconcile=reconcile,
            ),
            signals=signals.servicer,
            anomalies=AnomalyServicer(findings=operate_findings),
            tools=ToolServicer(
                list_tools=list_tools,
                authorize=authorize,
                report_outcome=ReportOutcome(store=store, clock=clock, notice=noticed),
            ),
            gate=gate,
            tls=server_credentials(identity),
            listen=settings.listen,
            health_listen=settings.health_listen,
            jwt_listen=jwt_listen,
            max_message_bytes=settings.limits.max_message_bytes,
        )

        tell_others = TellOthers(
            store=store,
            receivers=receivers,
            clock=clock,
            ids=ids,
            actor=settings.own_id,
            watched=observing.metrics,
        )
        stack.push_async_callback(tell_others.close)
        anomalies.answers.tell = tell_others.messages_for

        async def tell_of_mark(finding: RecordedFinding) -> Sequence[Change]:
            return tell_others.messages_of_mark(finding, await anomalies.answers.receivers_of(finding))

        operate_findings.tell_of_mark = tell_of_mark

        # What the process before left half done comes first, before anything new is promised.
        await watch.reclaim()
        await end_quarantined()
        await anomalies.answers.take_up()

        rounds: list[Round] = [
            ("end-lapsed", watch.end_lapsed, _SWEEP),
            ("retry", watch.retry, _SWEEP),
            ("hold", revoke_leases.hold, _SWEEP),
            ("renew", watch.renew_due, _RENEW),
            ("expire", watch.revoke_expired, _RENEW),
            ("reclaim", watch.reclaim, _RENEW),
            ("forget-secrets", acquire.forget_old, _REFRESH),
            ("catalog", catalogs.reload_if_changed, _REFRESH),
            ("policies", policies.reload_if_changed, _REFRESH),
            *([("candidate-policies", candidates.reload_if_changed, _REFRESH)] if candidates else []),
            ("quarantine", quarantine_instances.follow, _REFRESH),
            ("reconcile", reconcile_in_turn, _RECONCILE),
            ("clock", clock.follow, _REFRESH),
            ("tell-others", tell_others.deliver, _SWEEP),
            *_following(store, events, grants, acquire, quarantine_instances, clock, anomalies.watches),
            *anomalies.rounds(),
            *signals.rounds(),
            *observing.rounds(
                server=server,
                store=store,
                revoke_leases=revoke_leases,
                login=login,
                identity=identity,
                vault=VaultHealth(connection),
            ),
        ]
        authzen = await open_authzen_door(
            settings,
            stack,
            identity,
            Authzen(
                authorize=authorize,
                list_tools=list_tools,
                enforce_for=EnforceFor(catalogs=catalogs, quarantine=quarantine),
                rate_limit=rate_limit,
                clock=clock,
            ),
            lambda endpoints: HttpsDoor(
                endpoints=endpoints,
                verifier=peers,
                shown=shown_by,
                operators=settings.who_operates(),
                record_refusal=record_refusal,
                rate_limit=rate_limit,
                max_concurrent_requests=settings.limits.max_concurrent_calls,
                max_body_bytes=settings.limits.max_message_bytes,
                stopping=gate.stopping,
                clock=clock,
                ids=ids,
                observer=observing.observer,
            ),
        )
        events_door = await signals.open(
            stack, identity=identity, stopping=gate.stopping, ids=ids, observer=observing.observer
        )
        await server.start()
        work = [asyncio.create_task(login.keep(), name="vault-login")]
        work += [
            asyncio.create_task(run_rounds(name, one_round, every=every, clock=clock), name=name)
            for name, one_round, every in rounds
        ]
        stack.push_async_callback(_cancel, work)
        if settings.address_file is not None:
            host = settings.listen.rsplit(":", 1)[0]
            new = settings.address_file.with_name(settings.address_file.name + ".new")
            new.write_text(f"{host}:{server.port}\n")
            new.replace(settings.address_file)
        drains = [quarantine_instances.drain, report_ended.drain, revoke_leases.drain, keep_alive.drain]
        return cls(
            server,
            [acquire.drain, complete.drain, anomalies.drain, *drains],
            [authzen, events_door],
        )


async def _state(
    settings: Settings, stack: contextlib.AsyncExitStack
) -> tuple[SqliteStore | PostgresStore, FollowingClock]:
    """The store, and the time that goes with it: what replicas share has one for all, whatever their own clocks say."""
    store = open_store(
        settings.store.url,
        password_file=settings.store.password_file,
        plaintext=settings.store.allow_plaintext,
    )
    stack.push_async_callback(store.close)
    if isinstance(store, PostgresStore):
        clock = FollowingClock(store.now, to_the_letter=True)
    else:
        clock = FollowingClock.of_wall()
    await clock.follow()
    return store, clock


def _following(  # noqa: PLR0913, PLR0917 - whoever has something in memory
    store: SqliteStore | PostgresStore,
    events: TaskEvents,
    grants: TaskGrants,
    acquire: AcquireCredential,
    quarantine: QuarantineInstances,
    clock: Clock,
    watches: WatchInstances,
) -> list[Round]:
    """What listens to other replicas, where there can be any."""
    if isinstance(store, SqliteStore):
        return []
    follow_changes = FollowChanges(
        feed=AuditFollower(store),
        store=store,
        events=events,
        grants=grants,
        acquire=acquire,
        quarantine=quarantine,
        clock=clock,
        watches=watches,
    )
    return [("follow-changes", follow_changes, _SWEEP)]


async def _cancel(work: list[asyncio.Task[None]]) -> None:
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
