"""Small models are computed with one thread, large ones with as many as before; afterwards all is as it was."""

import pytest
import torch

from shardproof.proving.running.thread_count import one_thread_if_small


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("elements", "inside"), [((1 << 18) // 2, 1), ((1 << 18) // 2 + 1, 2)])
def test_the_number_of_threads_depends_on_the_elements_of_the_state(elements, inside):
    state = {"weight": torch.empty(elements), "bias": torch.empty(elements)}
    with one_thread_if_small(state):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_inside_restores_it_too():
    with pytest.raises(OverflowError), one_thread_if_small({}):
        raise OverflowError
    assert torch.get_num_threads() == 2
