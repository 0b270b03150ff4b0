"""Functions over weights: encode them, learn which columns matter, choose types under a budget, measure what was lost.

What it is not: files (`checkpoint`), requests (`engine`); `herd.quantize` puts these together.
"""
