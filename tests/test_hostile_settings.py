"""What the surroundings may not change: where keys go, and what secrets the service starts with."""

import base64
import os
import subprocess
import sys

import pytest

from tests.environment import fresh_secrets, keyset
from tests.servers import free_port
from tests.service import ROOT

# --- Nobody but the operator says where a key goes -------------------------------------------------------------------

TARGETS = [
    "http://127.0.0.1:{port}/v1",
    "http://[::ffff:127.0.0.1]:{port}",
    "https://ok#@127.1:{port}",
    "http://[fd00::1]",
]
FIELDS = ["base_url", "api_base", "url", "endpoint", "host", "proxy", "headers", "organization", "azure_endpoint"]


def test_it_lets_no_user_say_where_a_key_goes(exposed):
    call, token = exposed.service.call, exposed.person.token
    stored = call("/api-keys", token=token).json()["results"][0]
    for field in FIELDS:
        for target in TARGETS:
            where = {field: target.format(port=exposed.trap.port)}
            body = {"provider": "openai", "label": "evil", "key": "demo-" + "e" * 30, **where}
            assert call("/api-keys", body, token=token).status == 400
            assert call(f"/api-keys/{stored['id']}", where, token=token, method="PATCH").status == 400
    assert call("/api-keys", token=token).json()["results"] == [stored]
    assert call(f"/api-keys/{stored['id']}/test", {}, token=token).status == 200
    assert exposed.person.chat().status == 200
    assert exposed.trap.bitten == 0


def test_it_heeds_no_proxy_and_no_password_of_its_environment(exposed):
    stored = exposed.service.call("/api-keys", token=exposed.person.token).json()["results"][0]
    assert exposed.service.call(f"/api-keys/{stored['id']}/test", {}, token=exposed.person.token).status == 200
    assert exposed.person.chat().status == 200
    assert exposed.trap.bitten == 0
    sent = [request.headers["authorization"] for request in exposed.provider.requests]
    assert len(sent) == 2
    assert {value.partition("-")[0] for value in sent} == {"Bearer demo"}


# --- It starts with no secret that somebody could know ---------------------------------------------------------------


def of_bytes(number: int) -> str:
    return "1:" + base64.b64encode(os.urandom(number)).decode()


SHARED = keyset()
BAD = {
    "changeme": {"SECRET_KEY": "changeme"},
    "31 bytes": {"AIPROXY_MASTER_KEYS": of_bytes(31)},
    "pepper and master": {"AIPROXY_PEPPERS": SHARED, "AIPROXY_MASTER_KEYS": SHARED},
}


def serve_with(directory, bad: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    places = {"AIPROXY_DATA_DIR": str(directory), "AIPROXY_ENV_FILE": str(directory / "no.env")}
    return subprocess.run(
        [sys.executable, "manage.py", "serve", "--port", str(free_port())],
        cwd=ROOT, env={**kept, **fresh_secrets(), **places, **bad}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_it_refuses_to_start_and_names_the_setting_but_not_its_value(tmp_path, bad):
    ended = serve_with(tmp_path, bad)
    assert ended.returncode != 0
    said = ended.stdout + ended.stderr
    assert any(name in said for name in bad), said
    assert "Traceback" not in said
    assert not [value for value in bad.values() if len(value) > 16 and value in said]
