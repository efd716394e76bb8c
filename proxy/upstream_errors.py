"""Owns what can go wrong between a provider and us, told apart by what may have been sent.

UpstreamError                 .request_sent: may the provider have seen (and billed) the request?
  ConnectFailed > ConnectTimeout      TLSFailed > TLSTimeout
  Disconnected > WriteFailed > WriteTimeout      FirstByteTimeout
  ProtocolViolation      IdleTimeout      BodyCut
"""


class UpstreamError(Exception):
    """A provider could not be asked or did not finish its answer. `request_sent` is exact, never a guess."""

    def __init__(self, message: str, *, request_sent: bool = False) -> None:
        super().__init__(message)
        self.request_sent = request_sent


class ConnectFailed(UpstreamError):
    """No address of the provider (or of the CONNECT proxy) could be reached."""


class ConnectTimeout(ConnectFailed):
    """The last address tried did not answer in time."""


class TLSFailed(UpstreamError):
    """Handshake or certificate check failed."""


class TLSTimeout(TLSFailed):
    """The handshake did not finish in time."""


class Disconnected(UpstreamError):
    """The connection was lost before the head of the answer was complete."""


class WriteFailed(Disconnected):
    """The connection was lost before the request was written whole."""


class WriteTimeout(WriteFailed):
    """The provider stopped reading the request."""


class FirstByteTimeout(UpstreamError):
    """The request was written but no complete head came back in time."""


class IdleTimeout(UpstreamError):
    """The body fell silent."""


class ProtocolViolation(UpstreamError):
    """The provider did not speak HTTP/1.1 as RFC 9112 has it."""


class BodyCut(UpstreamError):
    """The connection ended before the body did."""
