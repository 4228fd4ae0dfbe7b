"""Images from registries into the store, and back: `pull` and `push`, each in the module of its name.

Nothing is imported here: who pulls need not load what packs layers.
"""
