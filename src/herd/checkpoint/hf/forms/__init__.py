"""Quantised forms of Hugging Face folders, a file each: what config.json and the tensors mean.

A form is a `Form`: made of the folder's tensors and config.json's object, it raises BadCheckpoint for a setting that it
does not read, and then says of every matrix what is stored of it. `of_method` finds it.
"""
