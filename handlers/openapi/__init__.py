"""The document at ``/openapi.json``, built from the operations that handlers declare."""
