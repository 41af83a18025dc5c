"""Understands an adapter: every file, tensor and config key has an owner or is a finding."""
