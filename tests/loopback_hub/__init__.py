"""A Hub of Hugging Face on loopback, for tests with the real client; see server.py."""

from tests.loopback_hub.faults import Fault, rate_limited
from tests.loopback_hub.server import LoopbackHub

__all__ = ["Fault", "LoopbackHub", "rate_limited"]
