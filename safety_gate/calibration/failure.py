"""What keeps a calibration from being made."""

from safety_gate.errors import GateError


class CannotCalibrate(GateError):
    """Nothing can be said about thresholds from these adapters."""

    rule = "calibration-impossible"
