"""Calls to Vault, off the event loop, with errors that hold no text of Vault's.

What always holds: a token goes with the one call it is for and is never kept in a client that is shared; redirects are
not followed and nothing is sent twice; no proxy of the environment is used; what Vault or the driver says stays in this
module, as a status code and a class of trouble (rule R6). urllib3 and not hvac: docs/adr/0013.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

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


_RENEW_WORKERS: Final = 4
"""Renewals can wait: each lease has half of its life left."""


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
        url = urllib3.util.parse_url(address)
        self._prefix = (url.path or "").rstrip("/") + "/v1/"
        self._headers = {"X-Vault-Request": "true"} | ({"X-Vault-Namespace": namespace} if namespace else {})
        tls = {
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": DEFAULT_CA_BUNDLE_PATH if ca_file is None else str(ca_file),
        }
        self._pool = urllib3.connection_from_url(
            address,
            # One for each thread that may call, so that none ever waits for another's.
            maxsize=issue_workers + revoke_workers + _RENEW_WORKERS,
            block=False,
            **(tls if url.scheme == "https" else {}),
        )
        self.issuing = ThreadPoolExecutor(issue_workers, thread_name_prefix="vault-issue")
        self.revoking = ThreadPoolExecutor(revoke_workers, thread_name_prefix="vault-revoke")
        self.renewing = ThreadPoolExecutor(_RENEW_WORKERS, thread_name_prefix="vault-renew")

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
        self.renewing.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

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
        headers = dict(self._headers)
        if token is not None:
            headers["X-Vault-Token"] = token.reveal()
        if correlation:
            headers["x-correlation-id"] = correlation
        sent_body = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent_body = json.dumps(dict(body)).encode()
        bound = max(seconds, 0.001)
        try:
            response = self._pool.urlopen(
                method.upper(),
                self._prefix + path,
                body=sent_body,
                headers=headers,
                timeout=urllib3.Timeout(connect=bound, read=bound),
                retries=False,
                redirect=False,
            )
            answer = json.loads(response.data) if response.data else {}
        except (HTTPError, ValueError) as error:
            never_sent = isinstance(error, (NewConnectionError, ConnectTimeoutError))
            raise VaultCallError(operation, None, kind=type(error).__name__, sent=not never_sent) from None
        if response.status not in _OK or not isinstance(answer, dict):
            errors = answer.get("errors") if isinstance(answer, dict) else None
            phrases = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
            raise VaultCallError(operation, response.status, phrases=phrases)
        return answer
