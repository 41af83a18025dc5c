"""Tiny language worlds and the models and adapters that are trained in them."""
