import torch

# Tests run in several processes at once; more threads than cores take a matrix product from hundreds of GF/s to a few.
torch.set_num_threads(1)
