"""GGUF models, read and written."""
