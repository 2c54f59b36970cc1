"""PyTorch's side of exact arithmetic: the modes, the dispatch of ops to rules, and what is known of each tensor."""
