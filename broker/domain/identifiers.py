"""Identifiers that are easily confused, each a type of its own.

They come from the `Ids` port or from a real product; nothing in the domain makes them up.
"""

from __future__ import annotations

from typing import NewType

TaskId = NewType("TaskId", str)
"""`task-` and 26 characters of Crockford base 32; unguessable, sortable by time."""

LeaseId = NewType("LeaseId", str)
"""`lease-` and 26 characters of Crockford base 32. The broker's own id, not Vault's."""

ActionId = NewType("ActionId", str)
"""`action-` and 26 characters of Crockford base 32: one decided use of a tool or a credential."""

FindingId = NewType("FindingId", str)
"""`finding-` and 32 hexadecimal digits that follow from what was found."""

MessageId = NewType("MessageId", str)
"""`message-` and 26 characters of Crockford base 32: one message to one outside receiver."""

VaultLeaseId = NewType("VaultLeaseId", str)
"""What Vault calls the lease, for example `database/creds/orders-readonly/9ZqB…`. Not a secret."""

TokenAccessor = NewType("TokenAccessor", str)
"""Names a Vault token without being it: good for looking up and revoking, never for use. Not a secret."""

RequestId = NewType("RequestId", str)
"""One call, in logs and in answers."""
