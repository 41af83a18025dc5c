"""`python -m safety_gate` is the same as `safety-gate`."""

from safety_gate.cli import main

main()
