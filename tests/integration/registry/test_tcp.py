"""The registry over TCP: who may, who may not, and what answers there."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.spire.registry import SpireWorkloadRegistry, open_registry
from broker.adapters.spire.server_channel import tcp_channel
from broker.devstack.state import TRUST_DOMAIN
from broker.domain.workload import Ownership
from broker.ports.registry import RegistryRefusedError, RegistryUnavailableError
from broker.usecases.apply_workloads import ApplyWorkloads
from broker.usecases.plan_workloads import plan
from tests.integration.registry.conftest import Registrar
from tests.integration.registry.spire_alone import make_admin, minted, server_port
from tests.unit.spire.certificates import Authority
from tests.unit.usecases.test_plan_workloads import a_class, wanted
