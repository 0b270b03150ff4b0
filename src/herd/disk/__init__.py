"""Files as they lie on a disk: written whole or not at all, staged, mapped, locked, told apart by digests.

What it is not: a format of files, a model.
"""
