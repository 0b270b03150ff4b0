"""Ollama's dialect: /api/chat, generate, tags, show, ps, embed, create, copy, delete, pull, version.

Source of shapes: Ollama's docs/api.md and its clients. Streams are lines of JSON, times are nanoseconds.
"""
