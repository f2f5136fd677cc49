"""Brings up docker-compose.yml itself, under a project name of its own, and takes everything away afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from testcontainers.compose import DockerCompose
from testcontainers.core.docker_client import DockerClient

REPOSITORY: Final = Path(__file__).resolve().parents[3]


class Compose(DockerCompose):
    """docker compose; where the plugin is missing, the older docker-compose, which takes the same words here."""

    @property
    def compose_command_property(self) -> list[str]:
        """How each command begins."""
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose", "--profile", "agent"]
        if old := shutil.which("docker-compose"):
            return [old, "--profile", "agent"]
        return pytest.fail(
            "neither `docker compose` nor docker-compose is there: run docker/build-local-images.sh"
        )


class Stack:
    """The stack while it is up."""

    def __init__(self, project: str, client: Any) -> None:
        self.project = project
        self.client = client

    def run(self, script: str, *, labels: dict[str, str], networks: tuple[str, ...]) -> tuple[int, str]:
        """Run Python in a new container with the Workload API's socket; its exit code and what it printed."""
        container = self.client.containers.create(
            "tasklease/agent:dev",
            ["-c", script],
            labels=labels,
            network=f"{self.project}_{networks[0]}",
            volumes={f"{self.project}_spire-agent-socket": {"bind": "/run/spire", "mode": "ro"}},
            environment={
                "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spire/agent.sock",
                "TASKLEASE_BROKER": "broker:8443",
            },
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
        )
        try:
            for name in networks[1:]:
                self.client.networks.get(f"{self.project}_{name}").connect(container)
            container.start()
            code = container.wait(timeout=90)["StatusCode"]
            return code, container.logs().decode()
        finally:
            container.remove(force=True)

    def service(self, name: str) -> Any:
        """The container of a service of the compose file."""
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={name}"]
        (found,) = self.client.containers.list(all=True, filters={"label": labels})
        return found


@pytest.fixture(scope="session")
def daemon() -> Iterator[Any]:
    """Docker; without it this fails, because a part that was not tested must not look as if it had been."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        in_ci = os.environ.get("CI") == "true" or os.environ.get("TASKLEASE_CI") == "1"
        if os.environ.get("TASKLEASE_WITHOUT_DOCKER") == "1" and not in_ci:
            pytest.skip("TASKLEASE_WITHOUT_DOCKER=1")
        pytest.fail(
            "no Docker daemon answers: start one (as root: docker/build-local-images.sh does), or say "
            "TASKLEASE_WITHOUT_DOCKER=1 to leave these tests out"
        )
    client = DockerClient().client
    yield client
    client.close()


@pytest.fixture(scope="session")
def stack(daemon: Any) -> Iterator[Stack]:
    """The whole stack of docker-compose.yml, healthy."""
    project = f"tasklease-test-{secrets.token_hex(4)}"
    patch = pytest.MonkeyPatch()
    patch.setenv("COMPOSE_PROJECT_NAME", project)
    compose = Compose(context=str(REPOSITORY), pull=False, wait=False, services=["agent"])
    running = Stack(project, daemon)
    try:
        compose.start()
        yield running
    except subprocess.CalledProcessError as error:
        pytest.fail(f"the stack does not come up: {error.stderr.decode()[-3000:]}")
    finally:
        subprocess.run(
            [*compose.compose_command_property, "down", "--volumes", "--timeout", "5"],
            cwd=REPOSITORY, capture_output=True, check=False,
        )  # fmt: skip
        patch.undo()
        left = daemon.containers.list(all=True, filters={"label": f"com.docker.compose.project={project}"})
        assert not left
