"""The census: every model type of transformers with a tensor-parallel plan, each proved in a process of its own."""
