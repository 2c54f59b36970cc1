"""The end of a step of ranks with tokens of their own: shares of the loss and of its gradients are summed over them."""

import torch.distributed as dist


def finish_step(run, model, optimizer, loss):
    """Sum, record and update, after the backward of a rank's share of the loss."""
    total = loss.detach().clone()
    dist.all_reduce(total)
    run.record_loss(total)
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    run.record_gradients()
    optimizer.step()
    run.record_update(optimizer)
