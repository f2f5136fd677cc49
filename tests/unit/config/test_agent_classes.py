from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from broker.config.catalog import json_schema, load_catalog
from broker.config.reading import ConfigError
from broker.domain.attestation import (
    Attestation,
    DockerAttestation,
    Groups,
    KubernetesAttestation,
    SystemdAttestation,
    UnixAttestation,
    selectors,
)
from broker.domain.catalog import AgentClass

REPOSITORY = Path(__file__).parents[3]


def read(folder: Path, classes: str) -> dict[str, AgentClass]:
    file = folder / "catalog.yaml"
    file.write_text("version: 1\nagent_classes:\n" + classes)
    return dict(load_catalog(file).agent_classes)


def problems(folder: Path, classes: str) -> list[str]:
    """What is wrong, as `line: field: what`, lines counted from the first of `classes`."""
    with pytest.raises(ConfigError) as refused:
        read(folder, classes)
    return [f"{one.line - 2}: {one.field}: {one.what}" for one in refused.value.problems]


def problem(folder: Path, classes: str) -> str:
    (one,) = problems(folder, classes)
    return one


def test_a_class_of_before_is_read_as_before(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "  bot:\n    task_types: []\n    max_tasks: 3\n").values()
    assert found == AgentClass(
        name="bot", trust_domain=None, description="", task_types=frozenset(), max_tasks=3
    )
    assert (found.attestation, found.instances) == (UnixAttestation(), ())
    assert found.spiffe_path("x") == "/agent/bot/x"


def test_everything_that_a_class_can_say(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        """
  bot:
    task_types: []
    attestation: {kind: unix, gids: 70000-70999, user: agent, path: /usr/bin/agent}
    spiffe_id: "/agent/{class}/eu-{instance}"
    x509_svid_ttl: 5m
    jwt_svid_ttl: 1m
    instances: 3
    max_instances: 500
    parent: /spire/agent/x509pop/node-1
""",
    ).values()
    assert found.instances == ("1", "2", "3")
    assert found.spiffe_path("2") == "/agent/bot/eu-2"
    assert found.max_instances == 500
    assert (found.x509_svid_ttl, found.jwt_svid_ttl) == (timedelta(minutes=5), timedelta(minutes=1))
    assert found.parent == "/spire/agent/x509pop/node-1"
    assert found.attestation == UnixAttestation(
        groups=Groups(first=70000, last=70999), user="agent", path="/usr/bin/agent"
    )


@pytest.mark.parametrize(
    ("attestation", "instance", "wanted"),
    [
        (
            UnixAttestation(groups=Groups(first=70000, last=70009), user="agent"),
            "3",
            {"unix:supplementary_gid:70002", "unix:user:agent"},
        ),
        (
            UnixAttestation(group_name="agent-{instance}", sha256="ab" * 32),
            "alpha",
            {"unix:supplementary_group:agent-alpha", "unix:sha256:" + "ab" * 32},
        ),
        (DockerAttestation(), "alpha", {"docker:label:tasklease.instance:bot/alpha"}),
        (
            DockerAttestation(label="org.test.agent", image="bot:1"),
            "alpha",
            {"docker:label:org.test.agent:bot/alpha", "docker:image_id:bot:1"},
        ),
        (
            KubernetesAttestation(namespace="agents", service_account="bot"),
            "0",
            {"k8s:ns:agents", "k8s:sa:bot", "k8s:pod-name:bot-0"},
        ),
        (
            KubernetesAttestation(
                namespace="agents", service_account="bot", pod_name="x-{instance}", container="main"
            ),
            "0",
            {"k8s:ns:agents", "k8s:sa:bot", "k8s:pod-name:x-0", "k8s:container-name:main"},
        ),
        (SystemdAttestation(), "alpha", {"systemd:id:bot@alpha.service"}),
    ],
)
def test_each_kind_asks_for_what_its_attestor_finds(
    attestation: Attestation, instance: str, wanted: set[str]
) -> None:
    found = selectors(attestation, agent_class="bot", instance=instance, number=2)
    assert {str(one) for one in found} == wanted


@pytest.mark.parametrize(
    "attestation", [UnixAttestation(), UnixAttestation(groups=Groups(first=70000, last=70001))]
)
def test_without_a_group_of_its_own_there_is_no_instance(attestation: Attestation) -> None:
    with pytest.raises(ValueError, match="no group"):
        selectors(attestation, agent_class="bot", instance="3", number=2)


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("instances: -1", "3: agent_classes.bot.instances: give how many (0 to 100000), or a list of names"),
        ("instances: true", "3: agent_classes.bot.instances: give how many (0 to 100000), or a list of names"),
        (
            "instances: [a, B]",
            "3: agent_classes.bot.instances: 'B' is no name: give 1 to 64 of a-z 0-9 -, in quotes where it is a number",
        ),
        (
            "instances: [a, 2]",
            "3: agent_classes.bot.instances: 2 is no name: give 1 to 64 of a-z 0-9 -, in quotes where it is a number",
        ),
        ("instances: [a, a]", "3: agent_classes.bot.instances: a name stands twice: keep one"),
        (
            "instances: [a]",
            "3: agent_classes.bot.instances: nothing tells them apart: give attestation gids, such as 70000-70999, ",
        ),
        (
            "attestation: {kind: unix, gids: 70000-70999}\n    instances: [a]",
            "4: agent_classes.bot.instances: gids go by number, so say how many; with names, give attestation a ",
        ),
        (
            "attestation: {kind: unix, gids: 70000-70009}",
            "3: agent_classes.bot.attestation: gids has room for 10, max_instances allows 100: widen the one or ",
        ),
        (
            "attestation: {kind: unix, gids: 70000-70101}\n    ready: 3",
            "3: agent_classes.bot.attestation: gids has room for 102, max_instances and ready are 103: ",
        ),
        ("ready: 1", "3: agent_classes.bot.ready: what is told apart by a group is made ahead only by number: "),
        (
            "attestation: {kind: kubernetes, namespace: a, service_account: b}\n    ready: 1",
            "4: agent_classes.bot.ready: a pod has its uid only when it is made, so nothing can wait for it: ",
        ),
        (
            "attestation: {kind: docker}\n    instances: 101",
            "4: agent_classes.bot.instances: these are 101, max_instances allows 100: raise it",
        ),
        (
            "attestation:\n      kind: unix\n      gids: 999-2000",
            "5: agent_classes.bot.attestation.gids: from 1000 on, and upwards, such as 70000-70999: ",
        ),
        (
            "attestation:\n      kind: unix\n      gids: 70000",
            "5: agent_classes.bot.attestation.gids: give a range of group ids, such as 70000-70999",
        ),
        (
            "attestation:\n      kind: unix\n      gids: 3000-2000",
            "5: agent_classes.bot.attestation.gids: from 1000 on, and upwards, such as 70000-70999: ",
        ),
        (
            "attestation: {kind: unix, gids: 70000-70999, group: 'a-{instance}'}",
            "3: agent_classes.bot.attestation: gids, group: keep one of them",
        ),
        ("attestation: {gids: 70000-70999}", "3: agent_classes.bot.attestation.kind: is missing: add it"),
        (
            "attestation: {kind: lambda}",
            "3: agent_classes.bot.attestation.kind: give one of 'unix', 'docker', 'kubernetes', 'systemd'",
        ),
        (
            "attestation:\n      kind: docker\n      lable: x",
            "5: agent_classes.bot.attestation.lable: unknown key (did you mean 'label'?): remove it",
        ),
        (
            "attestation:\n      kind: kubernetes\n      namespace: x",
            "3: agent_classes.bot.attestation.service_account: is missing: add it",
        ),
        (
            "attestation:\n      kind: systemd\n      unit: bot.service",
            "5: agent_classes.bot.attestation.unit: give a text with {instance} in it, such as ",
        ),
        (
            "attestation: {kind: unix, group: '{instance} root'}",
            "3: agent_classes.bot.attestation.group: give a text with {instance} in it, such as agent-{instance}",
        ),
        ("x509_svid_ttl: 5s", "3: agent_classes.bot.x509_svid_ttl: give 10s to 24h"),
        ("parent: /spire/../x", "3: agent_classes.bot.parent: no empty or relative segments: give the path of an "),
        ("parent: /spire/server", "3: agent_classes.bot.parent: is SPIRE's server: entries below it are for nodes; "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line_and_a_remedy(tmp_path: Path, lines: str, wanted: str) -> None:
    found = problem(tmp_path, f"  bot:\n    task_types: []\n    {lines}\n")
    assert found.startswith(wanted)


def test_two_classes_do_not_share_a_group(tmp_path: Path) -> None:
    found = problem(
        tmp_path,
        """  a:
    task_types: []
    attestation: {kind: unix, gids: 70000-70999}
  b:
    task_types: []
    attestation: {kind: unix, gids: 70999-71999}
""",
    )
    assert found == (
        "6: agent_classes.b.attestation: gids 70999-71999 meet those of a (70000-70999): give each class its own"
    )


@pytest.mark.parametrize(
    "attestation",
    [
        "{kind: unix, group: 'agent-{instance}'}",
        "{kind: systemd, unit: 'agent@{instance}.service'}",
        "{kind: kubernetes, namespace: x, service_account: y, pod_name: 'agent-{instance}'}",
    ],
)
def test_two_classes_do_not_share_what_tells_their_instances_apart(tmp_path: Path, attestation: str) -> None:
    text = "".join(
        f"  {name}:\n    task_types: []\n    instances: [one, {name}]\n    attestation: {attestation}\n"
        for name in ("a", "b")
    )
    found = problem(tmp_path, text)
    assert found.startswith("8: agent_classes.b.attestation: instance one would be an instance of a as well")


def test_the_schema_knows_every_field_of_every_kind() -> None:
    schema = json.loads(json_schema())["$defs"]
    for kind in ("Unix", "Docker", "Kubernetes", "Systemd"):
        assert "kind" in schema[f"{kind}AttestationModel"]["properties"]
    assert {"attestation", "spiffe_id", "x509_svid_ttl", "jwt_svid_ttl", "instances", "max_instances"} <= set(
        schema["AgentClassModel"]["properties"]
    )


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/catalog.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "catalog.yaml").write_text(text)
    assert load_catalog(tmp_path / "catalog.yaml").agent_classes
