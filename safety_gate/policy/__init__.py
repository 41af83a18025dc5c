"""The policy: what is read from ``safety-gate.yml``, and how a verdict is made of it."""
