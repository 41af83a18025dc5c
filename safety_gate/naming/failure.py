"""What keeps names from being resolved."""

from safety_gate.errors import BadCheckpoint


class NamesUnknown(BadCheckpoint):
    """How a checkpoint's names belong to the parameters of its model is not known."""

    rule = "names-unknown"
