"""Files on a disk: written atomically, staged, memory-mapped, locked, identified by digests.

What it is not: a format of files, a model.
"""
