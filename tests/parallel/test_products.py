"""Products of split linear layers: values by hand, and what is saved for backward."""

import pytest
import torch
from tests.parallel.ranks import alone, random, run

from shardproof.errors import CannotRunError
from shardproof.parallel.products import Split, multiply_columns, multiply_rows

X, W, B = random(4, 6), random(5, 6, seed=2), random(5, seed=3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_columns_gathered_and_rows_summed_are_the_whole_product(size):
    def on_rank(axis):
        rows, columns = W.tensor_split(size)[axis.rank], W.tensor_split(size, 1)[axis.rank]
        bias = B.tensor_split(size)[axis.rank]
        by_columns = multiply_columns(X, rows, bias, Split(axis=axis, dim=None, features=5))
        by_rows = multiply_rows(X, columns, B, Split(axis=axis, dim=None, features=6))
        scattered = multiply_rows(X, columns, B, Split(axis=axis, dim=0, features=6))
        return by_columns, by_rows, scattered

    ranks = run(size, on_rank)
    expected = X @ W.T + B
    for by_columns, by_rows, _ in ranks:
        torch.testing.assert_close(by_columns, expected)
        torch.testing.assert_close(by_rows, expected)
    torch.testing.assert_close(torch.cat([scattered for _, _, scattered in ranks]), expected)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_only_what_a_gradient_needs_is_saved(needs):
    saved = []
    with (
        alone(2) as axis,
        torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.shape), t)[1], lambda t: t),
    ):
        x, w = X.clone().requires_grad_(needs[0]), W.clone().requires_grad_(needs[1])
        multiply_columns(x, w, None, Split(axis=axis, dim=None, features=None))
    assert saved == [X.shape] * needs[1] + [W.shape] * needs[0]


@pytest.mark.parametrize(
    ("needs", "changes", "own"),
    [
        (False, {}, False),
        (True, {}, True),
        (False, {"features": 5}, True),
        (False, {"dim": 0}, True),
    ],
)
def test_where_nothing_is_communicated_the_backward_is_pytorchs(needs, changes, own):
    with alone(2) as axis:
        x, w = X.clone().requires_grad_(needs), W[:3].clone().requires_grad_()
        split = Split(axis=axis, **{"dim": None, "features": None} | changes)
        z = multiply_columns(x, w, B[:3], split)
        assert (type(z.grad_fn).__name__ == "_ColumnsBackward") is own
        with torch.no_grad():
            assert torch.equal(multiply_columns(x, w, B[:3], split), z)
        if not changes and not needs:
            z.square().sum().backward()
            torch.testing.assert_close(w.grad, 2 * z.detach().T @ x)


def test_another_number_of_features_is_refused():
    with alone(2) as axis:
        for multiply in (multiply_columns, multiply_rows):
            with pytest.raises(CannotRunError, match=r"got 6 features, in shape \[4, 6\]; rank 0 of 2 needs 3"):
                multiply(X, W[:, :3], None, Split(axis=axis, dim=None, features=None))
