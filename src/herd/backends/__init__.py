"""Other engines and hosts as models: a `ChatModel` over HTTP, in the form of OpenAI's API.

    target       where requests go: address, model, key, what the other side can do, limits of what is read from it

What it is not: a policy (`herd.gated`), an engine.
"""
