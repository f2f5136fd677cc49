"""Files to start from: good, and as short as they can be while everything is in them."""

from __future__ import annotations

from pathlib import Path

CATALOG = """\
version: 1
agent_classes:
  invoice-bot:
    description: Reconciles
    task_types: [reconcile]
    max_tasks: 8
task_types:
  reconcile:
    environment: staging
    roles: [orders]
    max_duration: 30m
    heartbeat: 10s
    max_leases: 25
credential_roles:
  orders:
    engine: postgresql
    mount: database
    path: creds/orders
    classification: internal
    destination:
      host: db.test
      port: 5432
      scheme: postgresql
    ttl: 60s
    max_ttl: 10m
    revocation: revocable
"""

SETTINGS = """\
trust_domain: example.test
spiffe_endpoint_socket: unix:///run/agent.sock
vault:
  address: https://vault.test:8200
catalog: catalog.yaml
"""


def with_line(text: str, line: int, new: str) -> str:
    """The text with another line, counted from 1; an empty one is left out."""
    lines = text.splitlines()
    lines[line - 1 : line] = [new] if new else []
    return "\n".join(lines) + "\n"


def write(folder: Path, text: str | bytes, name: str = "catalog.yaml") -> Path:
    file = folder / name
    if isinstance(text, str):
        text = text.encode()
    file.write_bytes(text)
    return file
