"""A key goes through everything the vault does, at the most talkative log level, and shows up nowhere."""

import base64
import logging

import pytest
from django.core.cache import cache
from django.core.management import call_command

from vault.models import ApiKey
from vault.tests.conftest import keyset_entry


@pytest.fixture
def noisy():
    """Every logger says everything; what was logged is in the list."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    root, collect = logging.getLogger(), Collect(logging.DEBUG)
    loggers = [root, *(logging.getLogger(name) for name in ("httpx", "httpcore", "django", "django.db.backends"))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    root.addHandler(collect)
    yield lines
    root.removeHandler(collect)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_key_is_in_no_log_answer_or_table(api, owner, provider, settings, noisy, capfd) -> None:
    cache.clear()
    key = "sk-" + "CANARY" * 6
    client = api(owner)
    shown = []

    def say(method: str, url: str, body: dict | None = None) -> dict:
        answer = getattr(client, method)(url, body, format="json")
        shown.append(answer.content.decode())
        return answer.json() if answer.content else {}

    row = say("post", "/api-keys", {"provider": "openai", "label": "a", "key": key})
    say("post", "/api-keys", {"provider": "openai", "label": "b", "key": key})
    say("post", "/api-keys", {"provider": "no-such", "key": key})
    say("post", "/api-keys", {"provider": "openai", "label": "c", "key": key + "\n"})
    provider.answer(401, f'{{"error": {{"message": "bad key {key}"}}}}'.encode())
    say("post", f"/api-keys/{row['id']}/test")
    say("patch", f"/api-keys/{row['id']}", {"key": key, "nonsense": key})
    settings.AIPROXY_MASTER_KEYS = f"{keyset_entry(2)},{settings.AIPROXY_MASTER_KEYS}"
    call_command("rotate_master_key")
    call_command("check_api_keys")
    say("get", "/api-keys")
    table = [str(value) for stored in ApiKey.objects.values_list() for value in stored]
    everything = "\n".join([*noisy, *shown, *table, *capfd.readouterr()])
    assert noisy
    assert provider.requests
    for form in (key, key[:-4], base64.b64encode(key.encode()).decode()[:-4]):
        assert form not in everything
