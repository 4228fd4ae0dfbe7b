"""The room where images, layers, namespaces and processes meet, and the Python API."""
