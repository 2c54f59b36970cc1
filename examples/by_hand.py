# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A training step by hand, on one device and on two
#
# This notebook takes one training step of a 2-layer MLP four times: by PyTorch, by hand on one device, by hand on two
# devices with tensor parallelism, and in exact arithmetic, where it is proved. Sections 1 to 4 are the notebook that
# this library began with, made to run anywhere; below each cell stands what that notebook printed on its GPU, to be
# read beside what is computed here. Section 5 goes beyond it.
#
# `make notebook` writes the outputs anew, from `examples/by_hand.py`.

# %% [markdown]
# # 1. Dataset and Model
#
# ## 1.1. Random Dataset
#
# This generates input and output data of given sizes, for a given number of samples.
#
# `torch.manual_seed` makes the same data in each run. A data loader then makes batches of a given size.

# %%
import torch
from torch.utils.data import DataLoader, Dataset


class RandomTensorDataset(Dataset):
    def __init__(self, num_samples, in_shape, out_shape):
        self.num_samples = num_samples
        torch.manual_seed(12345)
        self.data = [(torch.randn(in_shape), torch.randn(out_shape)) for _ in range(num_samples)]

    def __len__(self):
        return self.num_samples

    def __getitem__(self, idx):
        return self.data[idx]


input_size = 6
output_size = 2

# dataset construction
num_samples = 32
dataset = RandomTensorDataset(num_samples=num_samples, in_shape=input_size, out_shape=output_size)

batch_size = 32  # one batch in total, since there are 32 samples
dataloader = DataLoader(dataset, batch_size=batch_size, pin_memory=torch.cuda.is_available(), shuffle=False)

# %% [markdown]
# ## 1.2. A Simple 2-Layer MLP model

# %%
import torch.nn as nn
import torch.optim as optim


class MLP(nn.Module):
    def __init__(self, in_feature, hidden_units, out_feature):
        super().__init__()
        torch.manual_seed(12345)
        self.hidden_layer = nn.Linear(in_feature, hidden_units)
        self.output_layer = nn.Linear(hidden_units, out_feature)

    def forward(self, x):
        x = self.hidden_layer(x)
        x = self.output_layer(x)
        return x


device = "cuda" if torch.cuda.is_available() else "cpu"  # one GPU if there is one, otherwise the CPU

# model construction
layer_1_units = input_size
layer_2_units = 4
layer_3_units = output_size
model = MLP(in_feature=layer_1_units, hidden_units=layer_2_units, out_feature=layer_3_units).to(device)

loss_fn = nn.MSELoss()
optimizer = optim.SGD(model.parameters(), lr=0.01)

# %% [markdown]
# ## 1.3. Extracting Each Layer's Original Weights and Biases

# %%
# hidden layer parameters
W1 = model.hidden_layer.weight
b1 = model.hidden_layer.bias

# output layer parameters
W2 = model.output_layer.weight
b2 = model.output_layer.bias

print(f"W1.shape: {W1.shape},  b1.shape: {b1.shape}\nW2.shape: {W2.shape} b2.shape: {b2.shape}\n")

# %% [markdown]
# The original printed:
#
# ```text
# W1.shape: torch.Size([4, 6]),  b1.shape: torch.Size([4])
# W2.shape: torch.Size([2, 4]) b2.shape: torch.Size([2])
# ```

# %% [markdown]
# # 2. Run One Epoch Using PyTorch On a Single Device
#
# We don't update the model's parameters yet, since section 3 needs them to compute the forward and the backward pass by
# hand.

# %%
# One iteration using PyTorch
print(f"Using {device} For One Iteration of Forward and Backward Passes Using PyTorch")
for x, y in dataloader:
    x = x.to(device)
    y = y.to(device)

    # Forward Pass
    out = model(x)

    # Calculate loss
    loss = loss_fn(out, y)

    # Zero grad
    optimizer.zero_grad(set_to_none=True)

    # Backward Pass
    loss.backward()

    # We update the model in section 4. (`optimizer.step()`)

print(f"{out=}")

# %% [markdown]
# The original printed, on its GPU:
#
# ```text
# Using cuda For One Iteration of Forward and Backward Passes Using PyTorch
# out=tensor([[ 0.1546, -0.5383],
#         [ 0.1222, -0.3119],
#         [ 0.6736, -0.2439],
#         [ 0.8124, -0.3054],
#         [ 0.4496, -0.4473],
#         [ 0.4101, -0.5774],
#         [ 0.4743, -0.6111],
#         [ 0.5034, -0.3675],
#         [ 0.3844, -0.3518],
#         [ 0.5095, -0.5411],
#         [ 0.6302, -0.4292],
#         [ 0.0960, -0.5650],
#         [ 0.5374, -0.3396],
#         [ 0.4914, -0.3475],
#         [ 0.9440, -0.1130],
#         [ 0.7744, -0.2111],
#         [ 0.4808, -0.3415],
#         [ 0.3199, -0.5394],
#         [ 0.5131, -0.4608],
#         [-0.0191, -0.6592],
#         [ 0.3838, -0.4386],
#         [ 0.5702, -0.2098],
#         [ 0.2020, -0.4805],
#         [ 0.1737, -0.2273],
#         [ 0.6647, -0.2574],
#         [ 0.6794, -0.2492],
#         [ 0.6364, -0.3637],
#         [ 1.0508, -0.2086],
#         [ 0.5117, -0.4432],
#         [ 0.4517, -0.2172],
#         [ 0.5502, -0.5689],
#         [ 0.6571, -0.0120]], device='cuda:0', grad_fn=<AddmmBackward0>)
# ```

# %% [markdown]
# # 3. Manual Computation
#
# * Simulate the forward pass on a single device
# * Simulate tensor parallelism (TP) of the forward pass on two devices
# * Simulate the backward pass on a single device
# * Simulate tensor parallelism (TP) of the backward pass on two devices
#
# First, a function that compares two tensors. With floating-point numbers it is acceptable if they are not exactly the
# same, but very close.


# %%
def cmp(s, t1, t2):
    ex = torch.all(t1 == t2).item()
    app = torch.allclose(t1, t2)
    maxdiff = (t1 - t2).abs().max().item()
    print(f"{s:15s} | exact: {ex!s:5s} | approximate: {app!s:5s} | maxdiff: {maxdiff}")


# %% [markdown]
# ## 3.1. Forward Pass
#
# The forward pass by hand, compared with what PyTorch has given us in section 2 (`out`).
#
# ### 3.1.1 Simulate Forward Pass On One Device

# %%
# Forward Pass Manually
h = x @ W1.T + b1
manual_out = h @ W2.T + b2
cmp("forward pass", manual_out, out)  # is it consistent with PyTorch?

# %% [markdown]
# The original printed:
#
# ```text
# forward pass    | exact: True  | approximate: True  | maxdiff: 0.0
# ```

# %% [markdown]
# ### 3.1.2 Simulate Forward Pass On Two Devices Using Tensor Parallelism (TP)
#
# Each layer's parameters are sharded column-wise between two devices. We compute the forward pass of each, to see how
# TP works and where it needs communication. First, how the parameters are divided:

# %%
############## on GPU 0
# Layer 1
W1_0 = W1[:2]
b1_0 = b1[:2]
# Layer 2
W2_0 = W2[:1]
b2_0 = b2[:1]
print(f"GPU 0 : W1.shape: {W1_0.shape},  b1.shape: {b1_0.shape}\nW2.shape: {W2_0.shape} b2.shape: {b2_0.shape}\n")

############## on GPU 1
# Layer 1
W1_1 = W1[2:]
b1_1 = b1[2:]
# Layer 2
W2_1 = W2[1:]
b2_1 = b2[1:]
print(f"GPU 1 : W1.shape: {W1_1.shape},  b1.shape: {b1_1.shape}\nW2.shape: {W2_1.shape} b2.shape: {b2_1.shape}\n")

# %% [markdown]
# The original printed (with `GPU 0` twice, a slip):
#
# ```text
# GPU 0 : W1.shape: torch.Size([2, 6]),  b1.shape: torch.Size([2])
# W2.shape: torch.Size([1, 4]) b2.shape: torch.Size([1])
#
# GPU 0 : W1.shape: torch.Size([2, 6]),  b1.shape: torch.Size([2])
# W2.shape: torch.Size([1, 4]) b2.shape: torch.Size([1])
# ```

# %% [markdown]
# Now the forward pass of each device by itself; after an all-gather we compare it with PyTorch's output.

# %%
# GPU 0
h_0 = x @ W1_0.T + b1_0
# GPU 1
h_1 = x @ W1_1.T + b1_1

# All_gather h before starting the forward pass for the next layer
gathered_h = torch.cat((h_0, h_1), dim=1)

# GPU 0
manual_out_0 = gathered_h @ W2_0.T + b2_0
# GPU 1
manual_out_1 = gathered_h @ W2_1.T + b2_1

# All_gather output
gathered_manual_out = torch.cat((manual_out_0, manual_out_1), dim=1)

cmp("TP - forward pass", gathered_manual_out, out)

# %% [markdown]
# The original printed:
#
# ```text
# TP - forward pass | exact: False | approximate: True  | maxdiff: 5.960464477539063e-08
# ```

# %% [markdown]
# ## 3.2 Backward Pass
#
# The gradients by hand, compared with what `loss.backward()` computes in section 2.
#
# ### 3.2.1 Simulate Backward Pass On One Device
#
# * d{variable} means dL/d{variable}.
# * `unsqueeze` adds a dimension of size 1, so that the element-wise multiplication broadcasts.

# %%
# Backward Pass Manually
dout = manual_out - y

# Output Layer
dW2 = (dout.unsqueeze(2) * h.unsqueeze(1)).mean(dim=0)  # average across the 32 samples of the batch
db2 = dout.mean(dim=0)
# Comparing with PyTorch gradients
cmp("dW2", dW2, W2.grad)
cmp("db2", db2, b2.grad)

dh = (dout.unsqueeze(2) * W2.unsqueeze(0)).sum(1)

# Hidden Layer
dW1 = (dh.unsqueeze(2) * x.unsqueeze(1)).mean(dim=0)
db1 = dh.mean(0)
cmp("dW1", dW1, W1.grad)
cmp("db1", db1, b1.grad)

# %% [markdown]
# The original printed:
#
# ```text
# dW2             | exact: False | approximate: True  | maxdiff: 2.9802322387695312e-08
# db2             | exact: True  | approximate: True  | maxdiff: 0.0
# dW1             | exact: False | approximate: True  | maxdiff: 2.9802322387695312e-08
# db1             | exact: False | approximate: True  | maxdiff: 1.862645149230957e-09
# ```

# %% [markdown]
# ### 3.2.2 Simulate Backward Pass On Two Devices Using Tensor Parallelism (TP)

# %%
# Output Layer
# GPU 0
dout_0 = manual_out_0 - y[:, :1]
dW2_0 = (dout_0.unsqueeze(2) * gathered_h.unsqueeze(1)).mean(0)
db2_0 = dout_0.mean(0)
cmp("dW2_0", dW2_0, W2.grad[:1])
cmp("db2_0", db2_0, b2.grad[:1])

# GPU 1
dout_1 = manual_out_1 - y[:, 1:]
dW2_1 = (dout_1.unsqueeze(2) * gathered_h.unsqueeze(1)).mean(0)
db2_1 = dout_1.mean(0)
cmp("dW2_1", dW2_1, W2.grad[1:])
cmp("db2_1", db2_1, b2.grad[1:])
###########

dh_0 = (dout_0.unsqueeze(2) * W2_0.unsqueeze(0)).sum(1)
dh_1 = (dout_1.unsqueeze(2) * W2_1.unsqueeze(0)).sum(1)
# Reduce-scatter h
reduce_scatter_dh_0 = (dh_0 + dh_1)[:, :2]
reduce_scatter_dh_1 = (dh_0 + dh_1)[:, 2:]

###########
# Hidden Layer
# GPU 0
dW1_0 = (reduce_scatter_dh_0.unsqueeze(2) * x.unsqueeze(1)).mean(0)
db1_0 = reduce_scatter_dh_0.mean(0)
cmp("dW1_0", dW1_0, W1.grad[:2])
cmp("db1_0", db1_0, b1.grad[:2])

# GPU 1
dW1_1 = (reduce_scatter_dh_1.unsqueeze(2) * x.unsqueeze(1)).mean(0)
db1_1 = reduce_scatter_dh_1.mean(0)
cmp("dW1_1", dW1_1, W1.grad[2:])
cmp("db1_1", db1_1, b1.grad[2:])

# %% [markdown]
# The original printed:
#
# ```text
# dW2_0           | exact: False | approximate: True  | maxdiff: 2.9802322387695312e-08
# db2_0           | exact: False | approximate: True  | maxdiff: 5.960464477539063e-08
# dW2_1           | exact: False | approximate: True  | maxdiff: 1.4901161193847656e-08
# db2_1           | exact: False | approximate: True  | maxdiff: 1.4901161193847656e-08
# dW1_0           | exact: False | approximate: True  | maxdiff: 7.450580596923828e-09
# db1_0           | exact: False | approximate: True  | maxdiff: 1.862645149230957e-09
# dW1_1           | exact: False | approximate: True  | maxdiff: 2.9802322387695312e-08
# db1_1           | exact: True  | approximate: True  | maxdiff: 0.0
# ```

# %% [markdown]
# # 4. Update The Model
#
# ## 4.2 Manually
#
# The gradients of section 3 update the model by hand, to be compared with PyTorch's SGD. The manual update comes first,
# since it needs the current parameters: `optimizer.step()` changes them.

# %%
# Using the same learning rate as Section 1
lr = 0.01
manual_nW1 = W1 - lr * dW1
manual_nb1 = b1 - lr * db1
manual_nW2 = W2 - lr * dW2
manual_nb2 = b2 - lr * db2

# %% [markdown]
# ## 4.1 PyTorch
#
# Now `optimizer.step()` updates the model, and the updated parameters are compared with those that were computed by
# hand. W1, b1, W2 and b2 still point to the model's parameters, which are updated in place.

# %%
# Run optimizer.step() to update the model
optimizer.step()

# %%
cmp("manual_nW1", manual_nW1, W1)
cmp("manual_nb1", manual_nb1, b1)
cmp("manual_nW2", manual_nW2, W2)
cmp("manual_nb2", manual_nb2, b2)

# %% [markdown]
# The original printed:
#
# ```text
# manual_nW1      | exact: False | approximate: True  | maxdiff: 2.9802322387695312e-08
# manual_nb1      | exact: True  | approximate: True  | maxdiff: 0.0
# manual_nW2      | exact: True  | approximate: True  | maxdiff: 0.0
# manual_nb2      | exact: True  | approximate: True  | maxdiff: 0.0
# ```

# %% [markdown]
# # 5. Beyond the Notebook
#
# ## 5.1 N Devices
#
# Nothing in section 3 depends on there being two devices, nor on sizes that divide. Three devices, of which the third
# holds one hidden unit and no output: the shards of layer 1 have 2, 1 and 1 rows, those of layer 2 have 1, 1 and 0.

# %%
N = 3

# PyTorch, from the updated parameters
out = model(x)
optimizer.zero_grad(set_to_none=True)
loss_fn(out, y).backward()


def shards(tensor, dim=0):
    return torch.tensor_split(tensor, N, dim)


# Forward: each device by itself, then an all-gather after each layer
h_n = [x @ W.T + b for W, b in zip(shards(W1), shards(b1), strict=True)]
gathered_h = torch.cat(h_n, dim=1)
out_n = [gathered_h @ W.T + b for W, b in zip(shards(W2), shards(b2), strict=True)]
cmp(f"{N} devices - forward pass", torch.cat(out_n, dim=1), out)

# Backward: the sum of all dh, of which each device keeps its own part, is the reduce-scatter
dout_n = [part - y_n for part, y_n in zip(out_n, shards(y, 1), strict=True)]
dh_n = [(dout.unsqueeze(2) * W.unsqueeze(0)).sum(1) for dout, W in zip(dout_n, shards(W2), strict=True)]
for n, (dout_own, dh_own) in enumerate(zip(dout_n, shards(sum(dh_n), 1), strict=True)):
    print(f"device {n} holds {dh_own.shape[1]} hidden units and {dout_own.shape[1]} outputs")
    if dout_own.numel():
        cmp(f"dW2_{n}", (dout_own.unsqueeze(2) * gathered_h.unsqueeze(1)).mean(0), shards(W2.grad)[n])
        cmp(f"db2_{n}", dout_own.mean(0), shards(b2.grad)[n])
    cmp(f"dW1_{n}", (dh_own.unsqueeze(2) * x.unsqueeze(1)).mean(0), shards(W1.grad)[n])
    cmp(f"db1_{n}", dh_own.mean(0), shards(b1.grad)[n])

# %% [markdown]
# ## 5.2 The General Factor
#
# `dout = manual_out - y` is right for two outputs, and for no other number. The loss is a mean over B O elements, and
# each square has the derivative 2 (out - y): dL/dout = 2 / (B O) (out - y). The mean over the batch is the 1 / B;
# what remains is 2 / O, which is 1 for O = 2. With three outputs the notebook's gradients are 3/2 times too large, on
# one device and on two alike: both agree with each other, and only PyTorch tells that both are wrong.

# %%
for outputs in (2, 3, 5):
    wide = MLP(in_feature=input_size, hidden_units=layer_2_units, out_feature=outputs).to(device)
    target = torch.randn(batch_size, outputs, device=device)
    wide_out = wide(x)
    loss_fn(wide_out, target).backward()
    with torch.no_grad():
        difference = wide_out - target
        grad = wide.output_layer.bias.grad
        cmp(f"O = {outputs}: out - y", difference.mean(0), grad)
        cmp(f"O = {outputs}: 2 / O (out - y)", (2 / outputs * difference).mean(0), grad)
        print(f"too large by {(difference.mean(0) / grad).mean().item():.4f}, O / 2 is {outputs / 2}")

# %% [markdown]
# ## 5.3 A Pipeline of Two Stages
#
# Instead of a part of each layer, each device can hold a whole layer. The batch is cut into two microbatches; GPU 0
# sends the hidden activations of each to GPU 1, which sends their gradients back. The loss is a mean over the batch, so
# each microbatch counts by its share of the samples, and the gradients of the two are added up.

# %%
M = 2
x_m, y_m = x.chunk(M), y.chunk(M)
share = [len(part) / len(x) for part in x_m]
out = model(x)
optimizer.zero_grad(set_to_none=True)
loss_fn(out, y).backward()

# Forward: GPU 0 holds layer 1, GPU 1 layer 2
h_m = [x_own @ W1.T + b1 for x_own in x_m]  # GPU 0, sent to GPU 1
out_m = [h_own @ W2.T + b2 for h_own in h_m]  # GPU 1
cmp("PP - forward pass", torch.cat(out_m), out)

# Backward: GPU 1, which sends dh back to GPU 0
dout_m = [part * (out_own - y_own) for part, out_own, y_own in zip(share, out_m, y_m, strict=True)]
dh_m = [(dout.unsqueeze(2) * W2.unsqueeze(0)).sum(1) for dout in dout_m]


def accumulate(dz_m, input_m):
    return sum((dz.unsqueeze(2) * h.unsqueeze(1)).mean(0) for dz, h in zip(dz_m, input_m, strict=True))


cmp("PP - dW2", accumulate(dout_m, h_m), W2.grad)
cmp("PP - db2", sum(dout.mean(0) for dout in dout_m), b2.grad)
cmp("PP - dW1", accumulate(dh_m, x_m), W1.grad)
cmp("PP - db1", sum(dh.mean(0) for dh in dh_m), b1.grad)

# Two mistakes: the last microbatch only, and each microbatch's own mean as if it were the batch's
cmp("last only: dW2", accumulate(dout_m[-1:], h_m[-1:]), W2.grad)
own_mean = [out_own - y_own for out_own, y_own in zip(out_m, y_m, strict=True)]
cmp("own means: dW2", accumulate(own_mean, h_m), W2.grad)
print(f"too large by {(accumulate(own_mean, h_m) / W2.grad).mean().item():.4f}")

# %% [markdown]
# ## 5.4 Proving It
#
# `approximate: True` leaves a question: rounding, or a small error? In exact arithmetic modulo a prime there is no
# rounding. The step of this notebook, sharded by PyTorch's own tensor parallelism as in section 3, is proved to be
# the step on one device; with the gradient of one bias 3/2 times too large it is not, and the report says so.

# %%
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import shardproof as sp


def parallelize(model, mesh):
    gathered = {"output_layouts": Replicate()}  # an all-gather after each layer
    plan = {"hidden_layer": ColwiseParallel(**gathered), "output_layer": ColwiseParallel(**gathered)}
    return parallelize_module(model, mesh, plan)


def parallelize_with_the_wrong_factor(model, mesh):
    model = parallelize(model, mesh)
    model.output_layer.bias.register_hook(lambda gradient: gradient * 3 / 2)
    return model


step = sp.Step(
    model=lambda: MLP(in_feature=input_size, hidden_units=layer_2_units, out_feature=output_size),
    batch=(x.cpu(), y.cpu()),
    loss=loss_fn,
    optimizer=lambda parameters: optim.SGD(parameters, lr=lr),
    steps=1,
)
print(sp.prove(step, parallelize=parallelize, devices=2))
for finding in sp.prove(step, parallelize=parallelize_with_the_wrong_factor, devices=2).roots:
    print(sp.describe(finding))
