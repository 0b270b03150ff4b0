"""Anthropic's dialect: /v1/messages and /v1/messages/count_tokens.

Source of shapes: Anthropic's published API reference and its Python and TypeScript clients.
"""
