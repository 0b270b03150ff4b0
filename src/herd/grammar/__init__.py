"""JSON schemas, Lark grammars and regular expressions -> masks over the ids that may come next.

What it is not: an engine. What is asked for, as data, is `herd.grammars`.
"""
