import pytest

from proxy.errors import NotFound
from proxy.routing import Route, route


@pytest.mark.parametrize(
    ("model", "provider", "sent"),
    [
        ("gpt-4o", "openai", "gpt-4o"),
        ("gpt-7-some-day", "openai", "gpt-7-some-day"),
        ("o4-mini", "openai", "o4-mini"),
        ("openai/meta-llama/llama", "openai", "meta-llama/llama"),
        ("ft:gpt-4o:org::id", "openai", "ft:gpt-4o:org::id"),
        ("text-embedding-3-small", "openai", "text-embedding-3-small"),
        ("text-embedding-v4", "alibaba", "text-embedding-v4"),
        ("text-embedding-004", "google", "text-embedding-004"),
        ("claude-opus-5-5", "anthropic", "claude-opus-5-5"),
        ("gemini/gemini-3-pro", "google", "gemini-3-pro"),
        ("models/gemini-3-pro", "google", "models/gemini-3-pro"),
        ("qwen3-max", "alibaba", "qwen3-max"),
    ],
)
def test_it_finds_the_provider(model, provider, sent):
    assert route(model) == Route(provider, sent)


@pytest.mark.parametrize("model", ["meta-llama/llama-4", "omni", "o", "llama", "openai/", "/gpt-4", "OpenAI/gpt-4"])
def test_it_does_not_guess(model):
    with pytest.raises(NotFound) as error:
        route(model)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
