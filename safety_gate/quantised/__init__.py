"""Quantised checkpoints: what their codes stand for, exactly, or a refusal by name."""
