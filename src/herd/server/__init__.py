"""The service over HTTP: OpenAI's, Ollama's and Anthropic's dialects of one thing, and a web page.

    http         bytes -> requests: time-outs and caps of connections (uvicorn, h11), hosts and origins, request ids,
                 bodies as JSON within limits, the last word on every error
    routes       the table of routes: method, path, right, dialect, handler; keys are checked here
    requests     a request in no dialect: its fields, none of which is dropped in silence, its images, its limits
    openai, ollama, anthropic   a dialect's request -> `GenerateRequest`; events -> the dialect's answer
    service      `GenerateRequest` -> events: the one door to models, policies, quotas and counters
    batches      requests of a file, answered by the same routes
    models       names -> loaded models: on demand, kept alive, restarted

What it is not: generation (`llm`), rules of safety (`safety`), flags (`cli`).
"""
