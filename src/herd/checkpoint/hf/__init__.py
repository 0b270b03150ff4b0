"""Hugging Face folders: plain floats, and what others quantized."""
