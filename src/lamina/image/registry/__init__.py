"""Registries: a client of the distribution specification, and what people configured for their registries.

`Registry` speaks with one repository of one registry. Around it: `configuration` (registries.conf), `tls` (certs.d),
`credentials` (config.json, auth.json, credential helpers), `authentication` (tokens), `transport` (retries, redirects),
`blobs` (downloads that survive broken connections), `uploads`.
"""
