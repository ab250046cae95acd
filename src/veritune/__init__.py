"""Veritune: adapt a code model with LoRA and prove whether it helped."""

__version__ = "0.1.0"
