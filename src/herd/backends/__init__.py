"""Other engines and hosts as models: a `ChatModel` over HTTP.

    target       where requests go: address, model, key, what the other side can do, limits of what is read from it
    model        one of them as a ChatModel
    wire         how one kind is spoken with; `forms` has all: `openai_form`, `converse` (Bedrock), `replicate`
    route        several models in order, as one
    remote       one or a route for programs without an event loop; `loop_thread` runs one for them
    transport    the one place that opens a connection; what comes is read within bounds (`reading`)
    failures     what went wrong over there, as errors of a kind
    gate         whether a request may leave the house, decided in one place
    settings     those of this machine, by name, as a person added them; `presets` knows hosts and engines by name
    current      what a name stands for now, in a service that goes on
    routes       those of this machine in order, by name
    spending     what they may cost, kept over all processes; `paid` keeps a model within it
    probing      what one can do, tried
    ids_engines  engines in the house that take token ids: `ids_executor` has one compute, `ids_wire` is what their
                 forms share (`ids_vllm`, `ids_sglang`, `ids_llama_server`); `alike_texts` tell tokenizers apart

What it is not: a policy (`herd.gated`), an engine of its own.
"""
