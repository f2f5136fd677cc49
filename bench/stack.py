"""The stack that is measured, and the clients that measure it."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import hvac
import requests

from broker.client import Broker, StaticIdentity, Svid
from broker.demo.callers import svid_of
from broker.devstack.parts import Say
from broker.devstack.stack import DevStack

AGENT_CLASS: Final = "invoice-bot"
TASK_TYPE: Final = "reconcile-invoices"
ROLE: Final = "orders-readonly"
VAULT_PATH: Final = "database/creds/orders-readonly"


class Measured:
    """The real parts, and who asks them."""

    def __init__(self, stack: DevStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder

    def broker(self, address: str = "") -> Broker:
        """An SDK client of an instance of its own."""
        return Broker.connect(address or self.stack.broker.address, identity=StaticIdentity(self.svid()))

    def svid(self) -> Svid:
        """That of an instance of its own."""
        name = f"bench-{secrets.token_hex(4)}"
        spiffe_id = self.stack.spire.instance_id(AGENT_CLASS, name)
        files = self.stack.spire.mint(spiffe_id, ttl=timedelta(hours=1), folder=self.folder / name)
        return svid_of(files, spiffe_id)

    def vault(self) -> hvac.Client:
        """A client of Vault, with a token that may do what a task's token may: read the role's path."""
        made = self.stack.vault.admin().auth.token.create(
            policies=[f"tasklease-role-{ROLE}"], no_default_policy=True, ttl="1h"
        )
        session = requests.Session()
        session.trust_env = False
        return hvac.Client(
            url=self.stack.vault.address, token=made["auth"]["client_token"], session=session, namespace=""
        )


@contextmanager
def measured(say: Say, *, replicas: int = 1) -> Iterator[Measured]:
    """Bring a stack up in a folder of its own; afterwards nothing is left of it."""
    folder = Path(tempfile.mkdtemp(prefix="tasklease-bench-"))
    stack = DevStack(folder / "dev", say=say)
    try:
        stack.up(replicas=replicas)
        yield Measured(stack, folder)
    finally:
        stack.down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)
