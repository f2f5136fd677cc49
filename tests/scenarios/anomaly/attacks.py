"""All attacks, by the detector that is meant to find them."""

from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.anomaly import attacks_on_denials as denials
from tests.scenarios.anomaly import attacks_on_trust as trust
from tests.scenarios.anomaly.acting import Actor

Attack = Callable[[Actor], None]

KINDS: dict[str, tuple[Attack, ...]] = {
    "retry-storm": (
        denials.hammer_for_good,
        denials.hammer_slowly,
        denials.hammer_for_now,
        denials.hammer_failures,
        denials.probe,
        denials.probe_among_work,
        denials.probe_over_tasks,
    ),
    "pivot": (
        denials.another_tool,
        denials.another_tool_much_later,
        denials.another_task,
        denials.as_credential,
        denials.by_a_delegate,
        denials.another_place,
        denials.another_change,
    ),
    "escalation": (
        trust.secrets_out,
        trust.another_identity,
        trust.trifecta,
        trust.staircase,
        trust.above_usual,
        trust.over_two_tasks,
        trust.to_production,
    ),
    "drift": (trust.backwards, trust.rare_order, trust.other_work, trust.other_work_among_work),
    "volume": (trust.burst, trust.scrape_slowly, trust.scrape_over_tasks, trust.scrape_in_two),
    "identity-misuse": (
        trust.two_addresses,
        trust.two_keys,
        trust.in_turns,
        trust.after_the_instance,
        trust.after_the_task,
    ),
    "canary": (trust.canary, trust.patient_canary),
}
