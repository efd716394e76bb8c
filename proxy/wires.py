"""Which providers are spoken, and by which wire."""

from proxy.wire import Wire, alibaba, anthropic, google, openai

WIRES: dict[str, Wire] = {
    "openai": openai.WIRE,
    "anthropic": anthropic.WIRE,
    "google": google.WIRE,
    "alibaba": alibaba.WIRE,
}
