"""Herd's packed form: matrices in the layout that kernels read, memory-mapped."""
