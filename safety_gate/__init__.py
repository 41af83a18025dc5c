"""Safety Gate: decides whether a fine-tuned adapter may be released."""

__version__ = "0.1.0"
