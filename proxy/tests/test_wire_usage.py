"""What each wire takes out of its provider's count: the classes of tokens that are billed apart."""

import json

import pytest

from proxy.wire import Call, Usage, alibaba, anthropic, google, openai, openai_responses
from usage import pricing


def counted(wire, body: dict) -> Usage:
    found = wire.WIRE.usage(json.dumps(body).encode())
    assert found is not None
    return found


def test_it_knows_openais_classes():
    of_input = {"cached_tokens": 1000, "cache_write_tokens": 400, "audio_tokens": 44, "image_tokens": 6}
    of_output = {"reasoning_tokens": 7, "audio_tokens": 3}
    usage = {"prompt_tokens": 1500, "completion_tokens": 20, "total_tokens": 1520}
    usage |= {"prompt_tokens_details": of_input, "completion_tokens_details": of_output}
    assert counted(openai, {"usage": usage, "service_tier": "flex"}) == Usage(
        *(1500, 20, 1520, 1000, 7), cache_write=400, audio_input=44, audio_output=3, image_input=6, service_tier="flex"
    )
    assert counted(alibaba, {"usage": usage}).audio_input == 44


@pytest.mark.parametrize("tier", [None, "default", "auto"])
def test_openais_standard_tier_has_no_name(tier):
    assert counted(openai, {"usage": {"prompt_tokens": 1}, "service_tier": tier}).service_tier == ""


def test_it_takes_no_more_audio_for_new_than_was_not_cached():
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 90, "audio_tokens": 50}}
    assert counted(openai, {"usage": usage}).audio_input == 10


def test_it_knows_the_classes_of_a_response():
    details = {"cached_tokens": 10, "cache_write_tokens": 20}
    usage = {"input_tokens": 100, "output_tokens": 5, "input_tokens_details": details}
    found = counted(openai_responses, {"usage": usage, "service_tier": "priority"})
    assert (found.cached, found.cache_write, found.service_tier) == (10, 20, "priority")


def test_it_knows_anthropics_classes():
    usage = {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 70, "output_tokens": 9}
    usage |= {"cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40}}
    usage |= {"service_tier": "standard", "speed": "fast"}
    assert counted(anthropic, {"usage": usage}) == Usage(
        *(175, 9, 184, 100), cache_write=70, cache_write_1h=40, service_tier="fast"
    )


COMPACTED = {
    "input_tokens": 23_000,
    "output_tokens": 1_000,
    "iterations": [
        {"type": "compaction", "input_tokens": 180_000, "cache_read_input_tokens": 50, "output_tokens": 3_500},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000},
    ],
}


def test_it_counts_what_anthropic_says_beside_its_sums():
    assert counted(anthropic, {"usage": COMPACTED}) == Usage(203_050, 4_500, 207_550, 50)
    body = {"id": "m", "model": "c", "content": [], "usage": COMPACTED}
    said, _ = anthropic.WIRE.answer(json.dumps(body).encode(), Call("c"))
    assert json.loads(said)["usage"]["total_tokens"] == 207_550


def test_it_does_not_know_the_price_of_an_advisors_tokens():
    advice = [{"type": "advisor_message", "model": "other", "input_tokens": 7, "output_tokens": 5}]
    usage = {"input_tokens": 10, "output_tokens": 3, "iterations": [*advice, *COMPACTED["iterations"]]}
    found = counted(anthropic, {"usage": usage})
    assert (found.total, pricing.cost("anthropic", "claude-opus-4-6", found)) == (183_575, None)


def test_it_knows_googles_classes():
    usage = {"promptTokenCount": 300, "candidatesTokenCount": 40, "thoughtsTokenCount": 5, "totalTokenCount": 345}
    usage |= {"cachedContentTokenCount": 120}
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 200}]
    usage["cacheTokensDetails"] = [{"modality": "AUDIO", "tokenCount": 110}, {"modality": "TEXT", "tokenCount": 10}]
    usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": 30}]
    assert counted(google, {"usageMetadata": usage}) == Usage(
        *(300, 45, 345, 120, 5), audio_input=90, audio_cached=110, image_output=30
    )
