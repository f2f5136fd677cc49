"""Calls to Vault through hvac, off the event loop, with errors that hold no text of Vault's.

What always holds: a token goes with the one call it is for and is never kept in a client that is shared (hvac's
clients hold theirs as mutable state); redirects are not followed; no proxy of the environment is used; what Vault
or the driver says stays in this module, as a status code and a class of trouble (rule R6).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import requests
from hvac.adapters import RawAdapter
from urllib3.exceptions import NewConnectionError

from broker.domain.secret import Secret

_OK: Final = range(200, 300)
_REFUSED: Final = range(400, 500)


class VaultCallError(Exception):
    """Vault did not do what was asked. `status` is None when there was no answer."""

    def __init__(
        self,
        operation: str,
        status: int | None,
        *,
        kind: str = "",
        phrases: Sequence[str] = (),
        sent: bool = True,
    ) -> None:
        what = f"no answer ({kind})" if status is None else f"status {status}"
        super().__init__(f"{operation}: {what}")
        self.status = status
        self._sent = sent
        self._phrases = tuple(phrases)

    @property
    def refused(self) -> bool:
        """Whether Vault did nothing for sure: it answered so (a 4xx), or was never reached."""
        return self.status in _REFUSED if self.status is not None else not self._sent

    def says(self, phrase: str) -> bool:
        """Whether Vault's own errors contain `phrase`. They are compared here and shown nowhere."""
        return any(phrase in text for text in self._phrases)


class VaultConnection:
    """One Vault address, with pools of threads that never wait for each other (rule R10)."""

    def __init__(
        self,
        *,
        address: str,
        ca_file: Path | None = None,
        namespace: str | None = None,
        issue_workers: int = 16,
        revoke_workers: int = 16,
    ) -> None:
        self._address = address
        self._verify: bool | str = True if ca_file is None else str(ca_file)
        self._namespace = namespace
        self.issuing = ThreadPoolExecutor(issue_workers, thread_name_prefix="vault-issue")
        self.revoking = ThreadPoolExecutor(revoke_workers, thread_name_prefix="vault-revoke")
        self._local = threading.local()

    async def call(  # noqa: PLR0913 - one call's parts
        self,
        method: str,
        path: str,
        *,
        token: Secret | None,
        body: Mapping[str, Any] | None = None,
        correlation: str = "",
        timeout: timedelta,
        pool: Executor | None = None,
    ) -> Mapping[str, Any]:
        """Call Vault and return its JSON answer (empty for none).

        Raises:
            VaultCallError: anything but success.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            pool or self.issuing, self._call, method, path, token, body, correlation, timeout.total_seconds()
        )

    def close(self) -> None:
        """Stop the threads; calls under way end by their time-outs."""
        self.issuing.shutdown(wait=False, cancel_futures=True)
        self.revoking.shutdown(wait=False, cancel_futures=True)

    def _call(  # noqa: PLR0913, PLR0917 - what run_in_executor hands over
        self,
        method: str,
        path: str,
        token: Secret | None,
        body: Mapping[str, Any] | None,
        correlation: str,
        seconds: float,
    ) -> Mapping[str, Any]:
        operation = f"{method.upper()} {path}"
        adapter = RawAdapter(
            base_uri=self._address,
            token=None if token is None else token.reveal(),
            timeout=max(seconds, 0.001),
            allow_redirects=False,
            session=self._session(),
            namespace=self._namespace,
            strict_http=True,
        )
        parts: dict[str, Any] = {} if body is None else {"json": dict(body)}
        if correlation:
            parts["headers"] = {"x-correlation-id": correlation}
        try:
            response = adapter.request(method, f"/v1/{path}", raise_exception=False, **parts)
            answer = response.json() if response.content else {}
        except (requests.RequestException, ValueError) as error:
            sent = not _never_connected(error)
            raise VaultCallError(operation, None, kind=type(error).__name__, sent=sent) from None
        if response.status_code not in _OK or not isinstance(answer, dict):
            errors = answer.get("errors") if isinstance(answer, dict) else None
            phrases = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
            raise VaultCallError(operation, response.status_code, phrases=phrases)
        return answer

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False
            session.verify = self._verify
            self._local.session = session
        return session


def _never_connected(error: Exception) -> bool:
    """Whether the call ended before there was a connection to send it on."""
    cause = error.args[0] if error.args else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(
        getattr(cause, "reason", None), NewConnectionError
    )
