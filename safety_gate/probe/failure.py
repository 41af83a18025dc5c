"""What keeps the model from being asked."""

from safety_gate.errors import GateError


class CannotProbe(GateError):
    """The model could not be asked, so nothing is known of its behaviour."""

    rule = "probe-impossible"
