"""OCI images: references, registries, documents, and layers as archives. Knows no processes and no namespaces."""
