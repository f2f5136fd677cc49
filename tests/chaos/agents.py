"""Agents that work while everything around them breaks, and remember every credential that they were given."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client import Svid
from broker.demo.callers import Caller
from tests.threats.world import ROLE, World, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A credential that an agent saw."""

    task_id: str
    lease_id: str
    response: credentials_pb2.AcquireCredentialResponse


class Agents:
    """Several at once, each in a thread; what they do is drawn from a seed."""

    def __init__(self, world: World, *, count: int, seed: int) -> None:
        self._world = world
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.held: list[Held] = []
        self.tasks = 0
        self.refused = 0
        self.trouble: list[BaseException] = []
        svids = [world.svid(ttl=timedelta(hours=2)) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._live, args=(svid, random.Random(seed + number)))  # noqa: S311 - to be repeated
            for number, svid in enumerate(svids)
        ]

    def take(self) -> list[Held]:
        """Every credential that was not taken yet."""
        with self._lock:
            taken, self.held = self.held, []
        return taken

    def give_back(self, held: list[Held]) -> None:
        """Those that are to be looked at again."""
        with self._lock:
            self.held += held

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _live(self, svid: Svid, dice: random.Random) -> None:
        try:
            while not self._stop.is_set():
                self._work(svid, dice)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.trouble.append(error)

    def _work(self, svid: Svid, dice: random.Random) -> None:
        """One task: declared, used, and completed or left to die. What fails is tried again for a while, as an SDK does."""
        ways, idempotent = dice.random(), key()
        task_id = ""

        def declare() -> bool:
            nonlocal task_id
            with self._calling(svid, dice) as caller:
                answer = self._world.try_declare(caller, idempotency_key=idempotent)
                if answer.ok:
                    task_id = answer.message.task.task_id
                return answer.ok or answer.reason not in {"", "STORE_UNAVAILABLE"}

        if not self._until(declare) or not task_id:
            self.refused += 1
            time.sleep(0.1)
            return
        self.tasks += 1
        for _ in range(dice.randint(1, 3)):
            self._acquire(svid, dice, task_id)
        end = time.monotonic() + dice.uniform(0.2, 3.0)
        while time.monotonic() < end and not self._stop.is_set():
            with self._calling(svid, dice) as caller:
                caller.call("Heartbeat", tasks_pb2.HeartbeatRequest(task_id=task_id), timeout=2)
            time.sleep(0.3)
        if ways < 0.2:  # dies without a word
            return

        def complete() -> bool:
            with self._calling(svid, dice) as caller:
                answer = self._world.complete(caller, task_id, timeout=10)
                return answer.ok or answer.reason in {"TASK_NOT_ACTIVE", "TASK_NOT_FOUND"}

        self._until(complete)

    def _acquire(self, svid: Svid, dice: random.Random, task_id: str) -> None:
        idempotent = key()

        def acquire() -> bool:
            with self._calling(svid, dice) as caller:
                answer = self._world.try_acquire(caller, task_id, role=ROLE, idempotency_key=idempotent)
                if answer.ok:
                    lease_id = answer.message.lease.lease_id
                    with self._lock:
                        self.held.append(Held(task_id=task_id, lease_id=lease_id, response=answer.message))
                return answer.ok or answer.reason in {"TASK_NOT_ACTIVE", "IDEMPOTENT_RESULT_GONE"}

        self._until(acquire, patience=4)

    def _calling(self, svid: Svid, dice: random.Random) -> AbstractContextManager[Caller]:
        """Any replica: which one is drawn for each call."""
        return self._world.calling(svid, replica=dice.randint(1, len(self._world.stack.brokers)))

    def _until(self, work: Callable[[], bool], *, patience: float = 15) -> bool:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if work():
                return True
            if self._stop.is_set() and time.monotonic() > end - patience / 2:
                return False
            time.sleep(0.2)
        return False
