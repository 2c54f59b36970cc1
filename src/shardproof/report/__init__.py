"""One proof, several renderers."""
