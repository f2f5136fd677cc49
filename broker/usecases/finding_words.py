"""What leaves of a finding, as plain JSON data, from which each receiver's own form is made.

What always holds: nothing of it is an agent's own text. The intent of a task, arguments of calls and names that no catalog could
have are in no finding; the free text of a finding that somebody else reported may hold an agent's words, and stays here.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from broker.domain.findings import SIGNAL, RecordedFinding
from broker.domain.messages import Message
from broker.domain.one_form import one_form
from broker.domain.spiffe import AgentIdentity

_MOST_WORDS: Final = 500
_MOST_EVIDENCE: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_ENCODER: Final = one_form(ensure_ascii=True, allow_nan=True)


def body_of(finding: RecordedFinding) -> str:
    """The body of a message about it."""
    found = finding.found
    ours = found.detector != SIGNAL
    agent = AgentIdentity.of(found.instance)
    return _ENCODER(
        {
            "finding": {
                "id": finding.finding_id,
                "detector": found.detector,
                "rule": found.rule if ours or _NAME.fullmatch(found.rule) else "",
                "severity": found.severity.value,
                "confidence": found.confidence,
                "instance": str(found.instance),
                "agent_class": agent.agent_class if agent else "",
                "task": found.task_id or "",
                "at": _time(found.at),
                "found_at": _time(finding.found_at),
                "evidence": list(found.evidence[-_MOST_EVIDENCE:]),
                "expected": _clean(found.expected) if ours else "",
                "happened": _clean(found.happened) if ours else "",
                "source": _clean(found.source),
                "answer": finding.answer.value,
                "answered_at": _time(finding.answered_at) if finding.answered_at else "",
                "mark": finding.mark.value,
            }
        }
    )


def finding_in(message: Message) -> dict[str, Any]:
    """The finding that a message is about; empty where the body is not of `body_of`."""
    try:
        finding = json.loads(message.body)["finding"]
    except (ValueError, KeyError, TypeError):
        return {}
    return finding if isinstance(finding, dict) else {}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _clean(text: str) -> str:
    return "".join(one for one in text if one.isprintable())[:_MOST_WORDS]
