"""The Hub's webhook door, the sweep behind it, and their commands."""
