"""hffs: a Hugging Face model or dataset as a directory."""

__version__ = "0.1.0"
