"""Where the binaries come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.devstack import parts
from broker.devstack.parts import SPIRE, VAULT, Part, PartMissingError, find


def program(path: Path, says: str, code: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VAULT", "SPIRE_SERVER", "SPIRE_AGENT", "OIDC_DISCOVERY_PROVIDER"):
        monkeypatch.delenv(f"TASKLEASE_{name}_BIN", raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin")
    monkeypatch.setenv("TASKLEASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parts, "REPOSITORY", tmp_path / "nowhere")
    monkeypatch.setattr("shutil.which", _which_in(tmp_path / "path"))


def _which_in(folder: Path) -> object:
    return lambda name: str(folder / name) if (folder / name).exists() else None


def test_the_environment_names_a_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "path/vault", "Vault v1.19.0")
    mine = program(tmp_path / "mine/vault", "Vault v1.18.2 (abc), built 2025")
    monkeypatch.setenv("TASKLEASE_VAULT_BIN", str(mine))
    assert find(VAULT, print) == {"vault": mine}


def test_a_binary_named_by_the_environment_that_is_too_old_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TASKLEASE_VAULT_BIN", str(program(tmp_path / "mine/vault", "Vault v1.12.1")))
    with pytest.raises(PartMissingError, match=r"is version 1\.12; vault 1\.15 or newer is needed"):
        find(VAULT, print)


def test_a_binary_named_by_the_environment_that_cannot_be_executed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TASKLEASE_VAULT_BIN", str(tmp_path / "none"))
    with pytest.raises(PartMissingError, match="TASKLEASE_VAULT_BIN names"):
        find(VAULT, print)


def test_the_path_comes_before_the_cache(tmp_path: Path) -> None:
    on_path = program(tmp_path / "path/vault", "Vault v1.21.0")
    program(tmp_path / f"cache/bin/vault-{VAULT.version}/vault", "Vault v1.21.0")
    assert find(VAULT, print) == {"vault": on_path}


@pytest.mark.parametrize(
    "says", ["Vault v1.14.9", "OpenBao v1.0.0", "some other program of that name, release 2.0.0", ""]
)
def test_what_does_not_fit_on_the_path_is_said_and_the_cache_is_used(tmp_path: Path, says: str) -> None:
    program(tmp_path / "path/vault", says)
    cached = program(tmp_path / f"cache/bin/vault-{VAULT.version}/vault", "Vault v1.21.0")
    said: list[str] = []
    assert find(VAULT, said.append) == {"vault": cached}
    assert any("on the PATH is not used" in line for line in said)


def test_openbao_is_as_good(tmp_path: Path) -> None:
    on_path = program(tmp_path / "path/vault", "OpenBao v2.4.1 (abc), built 2026")
    assert find(VAULT, print) == {"vault": on_path}


def test_one_old_binary_of_three_is_enough_to_refuse_them(tmp_path: Path) -> None:
    program(tmp_path / "path/spire-server", "1.13.3")
    program(tmp_path / "path/spire-agent", "1.9.0")
    program(tmp_path / "path/oidc-discovery-provider", "1.13.3")
    with pytest.raises(PartMissingError, match="build script comes only with a checkout"):
        find(SPIRE, print)


def test_some_binaries_on_the_path_are_not_mixed_with_others(tmp_path: Path) -> None:
    program(tmp_path / "path/spire-server", "1.13.3")
    cached = {
        name: program(tmp_path / f"cache/bin/spire-{SPIRE.version}/{name}", "1.13.3")
        for name in SPIRE.binaries
    }
    assert find(SPIRE, print) == cached


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(parts, "REPOSITORY", tmp_path / "checkout")
    return tmp_path / "checkout/vault/build.sh"


def build_script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\nset -e\n{body}\n")
    path.chmod(0o755)


def test_the_last_resort_is_the_build_and_it_is_kept(checkout: Path) -> None:
    build_script(
        checkout,
        """echo 'packages: 2'; echo 'compiling now'; echo github.com/hashicorp/vault; mkdir -p "$1"
printf '#!/bin/sh\\necho Vault v1.21.0\\n' > "$1/vault"; chmod 755 "$1/vault"; echo x >> "$1/../count" """,
    )
    said: list[str] = []
    first = find(VAULT, said.append)
    assert find(VAULT, said.append) == first
    assert (first["vault"].parent.parent / "count").read_text() == "x\n"
    assert "vault: compiling now" in said
    assert not any("github.com" in line for line in said), "packages are counted, not listed"


def test_a_build_that_fails_is_told_with_its_last_lines(checkout: Path) -> None:
    build_script(checkout, "echo 'Go 1.25 or newer is needed'; exit 3")
    with pytest.raises(PartMissingError, match=r"failed \(3\):\nGo 1\.25 or newer is needed"):
        find(VAULT, lambda _line: None)


def test_without_a_checkout_it_is_said_what_to_install() -> None:
    with pytest.raises(PartMissingError, match="install spire-server, spire-agent, oidc-discovery-provider"):
        find(SPIRE, lambda _line: None)


def docker(tmp_path: Path, copies: str) -> None:
    """A `docker` that knows one image, whose binary answers with `copies`."""
    program(tmp_path / "path/docker", "")
    (tmp_path / "path/docker").write_text(
        f"""#!/bin/sh
case "$1" in
  info) echo id ;;
  image) test "$3" = hashicorp/vault:{VAULT.version} ;;
  create) echo container ;;
  cp) printf '#!/bin/sh\\necho {copies}\\n' > "$3" ;;
  rm) echo "$2" >> {tmp_path}/removed ;;
  *) exit 1 ;;
esac
"""
    )


def test_a_binary_comes_out_of_the_image(tmp_path: Path) -> None:
    docker(tmp_path, "Vault v1.21.0")
    said: list[str] = []
    found = find(VAULT, said.append)
    assert found["vault"].parent == tmp_path / f"cache/bin/vault-{VAULT.version}"
    assert said == ["vault: taken from its image"]
    assert (tmp_path / "removed").read_text() == "container\n"


def test_an_image_whose_binary_does_not_run_here_is_not_used(tmp_path: Path) -> None:
    docker(tmp_path, "no such loader")
    said: list[str] = []
    with pytest.raises(PartMissingError):
        find(VAULT, said.append)
    assert any("is not used" in line for line in said)
    assert not list((tmp_path / f"cache/bin/vault-{VAULT.version}").iterdir())


@pytest.mark.parametrize("part", [SPIRE, VAULT], ids=lambda part: part.name)
def test_the_version_is_the_pinned_one(part: Part) -> None:
    pinned = Path(__file__).parents[3] / part.name / "PINNED"
    assert f"{part.name.upper()}_VERSION={part.version}\n" in pinned.read_text()


def test_the_build_of_vault_requires_the_pinned_version() -> None:
    module = Path(__file__).parents[3] / "vault/module/go.mod"
    assert f"require github.com/hashicorp/vault v{VAULT.version}\n" in module.read_text()
