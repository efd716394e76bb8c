"""Which providers are spoken, and by which wire."""

from proxy.dialect import Translation, through_chat
from proxy.wire import Wire, alibaba, anthropic, google, openai, openai_media

WIRES: dict[str, Wire] = {
    "openai": openai.WIRE,
    "anthropic": anthropic.WIRE,
    "google": google.WIRE,
    "alibaba": alibaba.WIRE,
}
# Who has images, sounds and moderations.
MEDIA: dict[str, Wire] = {"openai": openai_media.WIRE}


def translated(translation: Translation) -> dict[str, Wire]:
    """The same providers, spoken to in another dialect."""
    return {provider: through_chat(translation, provider, wire) for provider, wire in WIRES.items()}
