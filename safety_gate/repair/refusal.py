"""Why a repair cannot be made; nothing is written then."""

from safety_gate.errors import GateError


class CannotRepair(GateError):
    """The repair that was asked for is not possible, or would lose something in silence."""

    rule = "cannot-repair"
