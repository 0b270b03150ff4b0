"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/responses, /v1/models, /v1/embeddings, /v1/moderations.

Source of shapes: OpenAI's published OpenAPI file (openai/openai-openapi); deviations stand in docs/clients.md.
"""
