"""What ranks run in the composition tests: at the top of a module, where a spawned process finds it."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from shardproof.exact import ExactArithmetic

SEED = 3


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)


def parallelize(model, size):
    mesh = init_device_mesh("cpu", (size,))
    whole_input = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),))
    parallelize_module(model, mesh, whole_input)
    plan = {"norm": SequenceParallel(), "up": ColwiseParallel(input_layouts=Shard(1)), "down": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def optimizer_of(name, parameters):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=1e-2, foreach=name == "adamw foreach")


def train(model, optimizer, x, y):
    """Two steps; the tensors to compare, whole."""
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    found = {"loss": loss, "norm": norm, **dict(model.named_parameters())}
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach() for name, t in found.items()}


def train_alone(name):
    model, (x, y) = build(), batch()
    with ExactArithmetic(seed=SEED, check=True) as exact:
        found = train(model, optimizer_of(name, model.parameters()), x, y)
        return {name: exact.digits(t) for name, t in found.items()}


def train_on_ranks(comm, name):
    """The tensor-parallel step on gloo, sharded before the mode begins; its digits, and whether all came back."""
    model = parallelize(build(), comm.size)
    x, y = batch()
    before = {name: p.to_local().clone() for name, p in model.named_parameters()}
    with ExactArithmetic(seed=SEED, check=True) as exact:
        found = train(model, optimizer_of(name, model.parameters()), x, y)
        digits = {name: exact.digits(t) for name, t in found.items()}
    back = all(
        p.dtype == p.to_local().dtype == torch.float32 and torch.equal(p.to_local(), before[name])
        for name, p in model.named_parameters()
    )
    return digits, back


def own(rank, shape=(3, 4)):
    """Each rank's own tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(10 + rank))


def call_collectives(comm):
    """What each collective makes of each rank's own tensor, as digits."""
    size, rank, found = comm.size, comm.rank, {}
    drawn, long = own(rank), own(rank, (size * (size + 1) // 2,))
    with ExactArithmetic(seed=SEED, check=True) as exact:

        def keep(name, *tensors):
            found[name] = [exact.digits(t) for t in tensors]

        mine = drawn * 3 + 1
        keep("mine", mine)
        for name in ("SUM", "AVG", "MAX", "MIN"):
            for asynchronous in (False, True):
                x = mine.clone()
                work = dist.all_reduce(x, getattr(dist.ReduceOp, name), async_op=asynchronous)
                # Canonical before the wait: `check` would not see what a collective does later.
                keep(f"all_reduce {name} {asynchronous}", x)
                if asynchronous:
                    work.wait()
                    keep(f"waited {name}", x)
        gathered = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(gathered, mine)
        keep("all_gather", *gathered)
        uneven = torch.empty(size * (rank + 1))
        sent = list(range(1, size + 1))
        dist.all_to_all_single(uneven, long * 2, [rank + 1] * size, sent)
        keep("all_to_all_single uneven", long * 2, uneven)
        flat = torch.empty(size * 3, 4)
        dist.all_gather_into_tensor(flat, mine)
        keep("all_gather_into_tensor", flat)
        part = torch.empty(1)
        dist.reduce_scatter(part, [mine[0, r : r + 1].clone() for r in range(size)])
        keep("reduce_scatter", part)
        part = torch.empty(1, 4)
        dist.reduce_scatter_tensor(part, mine[:1].repeat(size, 1), dist.ReduceOp.AVG)
        keep("reduce_scatter_tensor", part)
        received = torch.empty(size, 4)
        dist.all_to_all_single(received, mine[:1].repeat(size, 1) * (1 + torch.arange(size)).unsqueeze(1))
        keep("all_to_all_single", received)
        shared = mine.clone() if rank == 1 else torch.empty(3, 4)
        dist.broadcast(shared, 1)
        keep("broadcast", shared)
        scattered = torch.empty(3, 4)
        dist.scatter(scattered, [mine * (r + 1) for r in range(size)] if rank == 0 else None, 0)
        keep("scatter", scattered)
        at_root = mine.clone()
        dist.reduce(at_root, 0)
        keep("reduce", at_root)
        gathered = [torch.empty(3, 4) for _ in range(size)] if rank == 0 else None
        dist.gather(mine, gathered, 0)
        keep("gather", *(gathered or []))
        counts = torch.tensor(float(rank + 1))
        dist.all_reduce(counts)
        found["count"] = counts.item()  # real on every rank: no residue leaves
        weights = torch.tensor([0.5 * rank, 1.0, 0.0])  # from outside, known on every rank
        total, largest = weights.clone(), weights.clone()
        dist.all_reduce(total)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        shared = [torch.empty(3) for _ in range(size)]
        dist.all_gather(shared, weights)
        found["known"] = [(x > 0.75).tolist() for x in (total, largest, torch.stack(shared).sum(0) / size)]
        keep("largest weight", largest)
        integers = torch.tensor([rank])
        dist.all_reduce(integers)
        found["integers"] = integers.item()
        dist.barrier()
        root = (mine * mine).sum().sqrt()
        norms = [torch.empty(()) for _ in range(size)]
        dist.all_gather(norms, root)
        keep("norm of norms", torch.stack(norms).norm(), torch.stack(norms).square().sum())
        divided = mine / (mine - mine) if rank == 1 else mine.clone()
        found["void before"] = exact.bound(divided).void
        dist.all_reduce(divided)
        found["void after"] = exact.bound(divided).void
        divisor = torch.tensor([1.0, float(rank != 1), 1.0, 1.0])
        for name in ("SUM", "MAX", "MIN"):
            partly = mine / divisor
            dist.all_reduce(partly, getattr(dist.ReduceOp, name))
            found[f"void {name}"] = exact.void_mask(partly).tolist()
        arrived = torch.empty(mine.shape)
        messages = [dist.isend(mine, (rank + 1) % size), dist.irecv(arrived, (rank - 1) % size)]
        for message in messages:
            message.wait()
        keep("arrived", arrived)
        found["refused"] = []
        for call in (
            lambda: dist.all_reduce(mine.clone(), dist.ReduceOp.PRODUCT),
            lambda: dist.all_reduce(torch.full((2,), float("-inf")) + mine[0, 0]),
        ):
            try:
                call()
                found["refused"].append("nothing")
            except RuntimeError as error:
                found["refused"].append(f"{type(error).__name__}: {error}")
    return found


def diverge(comm):
    """A sum over ranks in exact arithmetic, and with one rank's part lost."""
    drawn = own(comm.rank)
    with ExactArithmetic(seed=SEED) as exact:
        right = drawn * 3
        lost = right.clone() if comm.rank else right * 0
        dist.all_reduce(right)
        dist.all_reduce(lost)
        return exact.digits(right), exact.digits(lost)


def merge_log_sums(comm):
    """The log-sum-exp of each row of logits whose columns are split, merged over ranks in several ways, as digits."""
    generator = torch.Generator().manual_seed(2)
    parameter = torch.randn(8, 3 * comm.size, generator=generator, dtype=torch.float64, requires_grad=True)
    with ExactArithmetic(seed=SEED) as exact, torch.no_grad():
        whole = parameter * 1
        x = whole[:, 3 * comm.rank : 3 * comm.rank + 3]
        largest, own = x.amax(-1), x.amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        found = {"one device": whole.logsumexp(-1)}
        for name, shift in {"sum": largest, "sum, own maximum": own}.items():
            total = (x - shift[:, None]).exp().sum(-1)
            scattered = torch.empty(8 // comm.size, dtype=torch.float64)
            dist.reduce_scatter_tensor(scattered, total)
            dist.all_reduce(total)
            found[name] = total.log() + largest
            rows = slice(8 // comm.size * comm.rank, 8 // comm.size * (comm.rank + 1))
            parts = [torch.empty_like(scattered) for _ in range(comm.size)]
            dist.all_gather(parts, scattered.log() + largest[rows])
            found[f"scattered {name}"] = torch.cat(parts)
        logs = torch.empty(comm.size, 8, dtype=torch.float64)
        dist.all_gather_into_tensor(logs, x.logsumexp(-1)[None])
        found["gathered logarithms"] = logs.logsumexp(0)
        maxima, sums = torch.empty_like(logs), torch.empty_like(logs)
        dist.all_gather_into_tensor(maxima, own[None])
        dist.all_gather_into_tensor(sums, (x - own[:, None]).exp().sum(-1)[None])
        best = maxima.amax(0)
        found["gathered sums"] = (sums * (maxima - best).exp()).sum(0).log() + best
        found["gathered sums, no rescale"] = sums.sum(0).log() + best
        sent = x.logsumexp(-1) if comm.rank == 0 else torch.empty(8, dtype=torch.float64)
        dist.broadcast(sent, 0)
        found["broadcast"] = torch.stack([sent, whole[:, 3:].logsumexp(-1)]).logsumexp(0)
        return {name: exact.digits(t) for name, t in found.items()}


def gather_probabilities(comm):
    """Logarithms of softmaxes, of sigmoids and of 1 + exp(x), taken after each rank's rows were gathered, as digits."""
    generator = torch.Generator().manual_seed(3)
    parameter = torch.randn(4 * comm.size, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    with ExactArithmetic(seed=SEED) as exact, torch.no_grad():
        whole = parameter * 1
        own = whole[4 * comm.rank : 4 * comm.rank + 4]

        def gathered(x):
            found = torch.empty(4 * comm.size, 3, dtype=torch.float64)
            dist.all_gather_into_tensor(found, x)
            return found

        mixed = own.sigmoid() if comm.rank else own.softmax(-1)
        return {
            "log(softmax)": (exact.digits(gathered(own.softmax(-1)).log()), exact.digits(whole.log_softmax(-1))),
            "log(sigmoid)": (exact.digits(gathered(own.sigmoid()).log()), exact.digits(-F.softplus(-whole))),
            "log1p(exp)": (exact.digits(gathered(own.exp()).log1p()), exact.digits(F.softplus(whole))),
            "logsigmoid": (exact.digits(gathered(F.logsigmoid(own)).exp()), exact.digits(whole.sigmoid())),
            "other rows": (exact.digits(gathered(own.softmax(-1)).log()), exact.digits(whole.log_softmax(-1).flip(0))),
            "of two kinds": (exact.digits(gathered(mixed).exp()), exact.digits(gathered(mixed * 1).exp())),
        }
