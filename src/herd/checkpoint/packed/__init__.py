"""Herd's packed form: matrices as kernels read them, mapped."""
