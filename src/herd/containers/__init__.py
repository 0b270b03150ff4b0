"""File formats as bytes and tables of tensors: safetensors, GGUF, torch's zip archives. Everything is checked against
the header before a tensor is touched.

What it is not: what the tensors mean.
"""
