"""The service over HTTP: OpenAI's, Ollama's and Anthropic's dialects of one thing, and a web page.

    connection   bytes -> requests: time-outs and caps of connections (uvicorn, h11)
    door         hosts, origins, request ids, the last word on every error
    routes       the table of routes: method, path, right, dialect, handler; keys are checked here
    body         bytes -> JSON within limits -> a typed request; no field is dropped in silence (fields)
    openai, ollama, anthropic   a dialect's request -> `Ask`; events -> the dialect's answer
    service      `Ask` -> events: the one door to models, policies, quotas and counters
    models       names -> loaded models: on demand, kept alive, restarted

What it is not: generation (`llm`), rules of safety (`safety`), flags (`cli`).
"""
