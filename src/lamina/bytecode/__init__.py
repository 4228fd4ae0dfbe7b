"""How the commands find Lamina's compiled modules: all in one file, each proved to be of its source as it is now.

`finder` is asked for modules before Python's own finders, `archive` writes the file. Only `isolated.py` begins this: a
program that imports Lamina gets its modules as it gets any others. See docs/decisions/0034.
"""
