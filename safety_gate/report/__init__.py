"""Telling: one Report in, words out. Renderers decide nothing."""
