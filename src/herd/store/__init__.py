"""The models of this machine by name: versions, downloads, packed copies, licences.

What it is not: a reader of weights.
"""
