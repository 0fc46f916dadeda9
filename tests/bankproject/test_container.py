"""The image and the composition: what can be asserted about them without an engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.architecture.imports import ROOT

ONE_SHOTS = ("migrate", "grants", "init")
SERVICES = {"postgres", "redis", *ONE_SHOTS, "relay", "bank", "web"}
OURS = (*ONE_SHOTS, "relay", "bank", "web")


@pytest.fixture(scope="module")
def composition() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def stages() -> list[str]:
    """The Dockerfile's stages, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.split(r"(?m)^(?=FROM )", text)[1:]


def test_the_image_runs_as_its_own_user_and_tells_its_health(stages: list[str]) -> None:
    last = stages[-1]

    assert len(stages) == 2
    user = re.search(r"(?m)^USER (\S+)$", last)
    assert user is not None
    assert user.group(1) not in {"root", "0"}
    assert re.search(r"(?m)^HEALTHCHECK .*CMD \[.*bankproject\.healthcheck", last)
    assert "bankproject.serve" in last.rpartition("\nCMD ")[2]


def test_no_secret_reaches_the_last_stage(stages: list[str]) -> None:
    assert "--require-hashes" in stages[0]
    assert "SECRET_KEY" not in stages[-1]
    assert "pip install" not in stages[-1]


def test_the_build_context_is_what_is_named(stages: list[str]) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line[1:] for line in ignored if line.startswith("!")}

    assert "*" in ignored
    assert kept == {
        "bank",
        "bankproject",
        "clients",
        "protocol",
        "relay",
        "manage.py",
        "requirements.txt",
        "LICENSE",
    }
    assert all((ROOT / name).exists() for name in kept)


def test_every_service_is_there_and_tells_its_health(composition: dict[str, Any]) -> None:
    services = composition["services"]

    assert set(services) == SERVICES
    for name in ("postgres", "redis", "bank"):
        assert services[name]["healthcheck"]["test"]
    for name in ("relay", "web"):
        assert "healthcheck" not in services[name], "the image's own"


@pytest.mark.parametrize("name", OURS)
def test_our_services_have_no_more_rights_than_they_need(
    composition: dict[str, Any], name: str
) -> None:
    service = composition["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user") == ("postgres" if name == "grants" else None), "the image's own"
    assert not service.get("privileged", False)


def test_secrets_are_files_and_none_has_a_default(composition: dict[str, Any]) -> None:
    for name, service in composition["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("SECRET|PASSWORD|PASSPHRASE", variable):
                assert variable.endswith("_FILE"), (name, variable)
                assert str(value).startswith("/run/secrets/"), (name, variable)
        assert set(service.get("secrets", [])) <= set(composition["secrets"])
    assert all(set(secret) == {"file"} for secret in composition["secrets"].values())


def test_what_has_no_safe_default_is_required(composition: dict[str, Any]) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    variables = dict(re.findall(r"\$\{(TELLERWIRE_\w+):([?-])", text))

    assert {name for name, mark in variables.items() if mark == "?"} == {
        "TELLERWIRE_ALLOWED_HOSTS",
        "TELLERWIRE_BANK_CURRENCY",
        "TELLERWIRE_RELAY_NAME",
        "TELLERWIRE_PROXY_ADDRESS",
    }
    assert "${TELLERWIRE_RELAY_REGISTRATION:-closed}" in text


def test_the_first_steps_name_what_the_composition_requires(composition: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    loop = re.search(r"for name in (.+?); do", page, re.DOTALL)
    assert loop is not None

    assert set(loop[1].replace("\\", "").split()) == set(composition["secrets"])
    assert set(re.findall(r"(?m)^ +(TELLERWIRE_\w+)=", page)) == set(
        re.findall(r"\$\{(TELLERWIRE_\w+):\?", text)
    )


def test_each_step_waits_for_what_it_needs(composition: dict[str, Any]) -> None:
    services = composition["services"]
    done = {"condition": "service_completed_successfully"}

    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["grants"]["depends_on"] == {"migrate": done}
    assert services["init"]["depends_on"] == {"grants": done}
    for name in ("relay", "bank", "web"):
        assert services[name]["depends_on"]["init"] == done
    assert all(services[name]["restart"] == "no" for name in ONE_SHOTS)
    # While the image makes the databases, its server can be reached by the local socket alone.
    assert "--host 127.0.0.1" in services["postgres"]["healthcheck"]["test"][1]


def test_only_migrations_and_grants_have_an_owners_rights(composition: dict[str, Any]) -> None:
    services = composition["services"]

    with_owner = {
        name
        for name, service in services.items()
        if "bank_owner_database_password" in service.get("secrets", [])
    }
    assert with_owner == {"postgres", "migrate", "grants"}
    superusers = {
        name
        for name, service in services.items()
        if "postgres_password" in service.get("secrets", [])
    }
    assert superusers == {"postgres"}
    for name in ("init", "bank", "web"):
        url = services[name]["environment"]["TELLERWIRE_DATABASE_URL"]
        assert url.startswith("postgresql://bank@"), name


def test_the_banks_key_and_its_pin_lie_in_the_images_folders(
    composition: dict[str, Any], stages: list[str]
) -> None:
    services = composition["services"]
    private, public = "/var/lib/tellerwire", "/var/lib/tellerwire-public"

    # A new volume takes owner and mode of the image's folder that it is mounted on.
    assert re.search(rf"--owner tellerwire --group tellerwire --mode 0700 {private}\s", stages[-1])
    assert re.search(rf"--owner tellerwire --group tellerwire --mode 0755 {public}\s", stages[-1])
    mounts = {name: service.get("volumes", []) for name, service in services.items()}
    assert mounts["init"] == [f"bank-data:{private}", f"bank-public:{public}"]
    assert mounts["bank"] == [f"bank-data:{private}"]
    assert mounts["relay"] == mounts["web"] == [f"bank-public:{public}:ro"]
    pin = services["relay"]["environment"]["TELLERWIRE_RELAY_PINNED_FINGERPRINTS_FILE"]
    assert pin == services["init"]["command"][-1] == f"{public}/pins"


def test_only_this_host_reaches_the_ports(composition: dict[str, Any]) -> None:
    for service in composition["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert composition["networks"]["inside"]["internal"] is True


def test_each_role_sees_the_database_that_it_needs(composition: dict[str, Any]) -> None:
    services = composition["services"]

    assert services["relay"]["environment"]["TELLERWIRE_ROLES"] == "relay"
    assert "TELLERWIRE_DATABASE_URL" not in services["relay"]["environment"]
    assert services["bank"]["environment"]["TELLERWIRE_ROLES"] == "bank"
    assert "TELLERWIRE_RELAY_DATABASE_URL" not in services["bank"]["environment"]
    assert services["bank"]["command"][-1] == "runbank"
