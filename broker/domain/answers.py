"""Which answer a finding gets: rules of the catalog, by class, task type, detector, severity and confidence.

What always holds: the first rule that fits decides; where none fits, the defaults below do, and no finding goes unrecorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.domain.findings import Answer, Found, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule:
    """When it fits, and what is done then. What is empty fits everything."""

    answer: Answer
    severity: Severity = Severity.LOW
    """This, or worse."""
    confidence: float = 0.0
    """This, or surer."""
    detectors: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    agent_classes: frozenset[str] = frozenset()
    task_types: frozenset[str] = frozenset()
    """A finding without a task fits no rule that names some."""
    tell: tuple[str, ...] = ()
    """Receivers of the settings that are told."""

    def fits(self, found: Found, *, agent_class: str, task_type: str) -> bool:
        """Whether it is about such a finding."""
        return (
            found.severity.rank >= self.severity.rank
            and found.confidence >= self.confidence
            and (not self.detectors or found.detector in self.detectors)
            and (not self.rules or found.rule in self.rules)
            and (not self.agent_classes or agent_class in self.agent_classes)
            and (not self.task_types or task_type in self.task_types)
        )


DEFAULT_RULES: Final = (
    AnswerRule(severity=Severity.CRITICAL, confidence=0.85, answer=Answer.QUARANTINE),
    AnswerRule(severity=Severity.HIGH, confidence=0.75, answer=Answer.END_TASK),
    AnswerRule(severity=Severity.MEDIUM, confidence=0.8, answer=Answer.END_TASK),
    AnswerRule(severity=Severity.MEDIUM, answer=Answer.WARN),
    AnswerRule(answer=Answer.NOTE),
)
"""What is done where the catalog says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What is done about a finding, and who else is told."""

    answer: Answer
    tell: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The rules of a catalog, in order."""

    rules: tuple[AnswerRule, ...] = ()

    def to(self, found: Found, *, agent_class: str, task_type: str) -> Chosen:
        """The answer: by the first rule that fits, the catalog's before the defaults."""
        for rule in (*self.rules, *DEFAULT_RULES):
            if rule.fits(found, agent_class=agent_class, task_type=task_type):
                return Chosen(answer=rule.answer, tell=rule.tell)
        return Chosen(answer=Answer.NOTE)  # for the type checker: the last default fits everything
