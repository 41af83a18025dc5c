"""Writes a new adapter that walks less far from the alignment; it is judged like any other."""
