"""Scripts for other environments: each runs under a published scorer's own packages, and imports no part of this one.

Each takes two arguments: a JSON list of objects with `image` and `prompt`, and the file for a JSON list of scores.
None may have the name of a package that it imports, since its folder comes first on its path.
"""
