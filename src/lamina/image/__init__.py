"""OCI images: what they are called, what they say, where they come from, and how they become layers and back.

`reference` reads names as Docker does, `platform` chooses among an index's entries, `documents` are the manifests and
configs, `registry` speaks with registries, `transfer` pulls and pushes. Nothing here knows of processes or namespaces,
and nothing of a container's start needs this room: what a start needs of an image is in the store's record.
"""
