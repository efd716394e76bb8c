"""Which providers are spoken, and by which wire."""

from proxy.wire import Wire, alibaba, anthropic, google, openai, openai_media

WIRES: dict[str, Wire] = {
    "openai": openai.WIRE,
    "anthropic": anthropic.WIRE,
    "google": google.WIRE,
    "alibaba": alibaba.WIRE,
}
# Who has images, sounds and moderations.
MEDIA: dict[str, Wire] = {"openai": openai_media.WIRE}
