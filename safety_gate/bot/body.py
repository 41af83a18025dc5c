"""Reads the body of a request, and stops at once where it is too much."""

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request

LIMIT: Final = 256 * 1024  # bytes; a push of hundreds of refs has less
SECONDS: Final = 10.0  # for the whole body; the Hub sends it in one piece


class Refused(Exception):
    """The request is not one that we answer with 202."""

    def __init__(self, status: int, why: str, *, retry_s: int | None = None) -> None:
        """Keep the status, our own words, and when to come back."""
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_s = retry_s


async def body_of(request: Request) -> bytes:
    """Return the body.

    Raises:
        Refused: too long (413), too slow (408), packed (415), or not a length (400).
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body is packed; send it as it is")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise Refused(400, "content-length is not a number")
    if int(length[:12]) > LIMIT:
        raise Refused(413, f"the body is longer than {LIMIT} bytes")
    try:
        async with asyncio.timeout(SECONDS):
            return await _read(request)
    except TimeoutError:
        raise Refused(408, f"the body took more than {SECONDS:g} s") from None
    except ClientDisconnect:
        raise Refused(400, "the body ended early") from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > LIMIT:  # a chunked body has no length to trust
            raise Refused(413, f"the body is longer than {LIMIT} bytes")
        body += piece
    return bytes(body)
