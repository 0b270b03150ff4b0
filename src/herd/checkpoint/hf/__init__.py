"""Hugging Face folders: plain float weights, and those that others quantised."""
