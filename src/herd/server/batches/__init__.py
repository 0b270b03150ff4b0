"""Batches: many requests of a file, in OpenAI's form, answered by the routes that live requests have.

lines       one line of a file -> a request, or what is wrong with it
index       where lines stand, which of them begin alike; the file itself is never held
results     what came of them, a line each, on the disk before it counts
answering   one request -> the answer of its route
running     all lines, many at once, in the order of what they begin with
"""
