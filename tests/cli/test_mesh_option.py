"""`--mesh` as text: axes in order, each once."""

import pytest

from shardproof.cli.mesh_option import read_mesh, split_at_equals
from shardproof.errors import CannotRunError


def test_axes_come_in_their_order():
    assert list(read_mesh("ep=2,tp=4").items()) == [("ep", 2), ("tp", 4)]


@pytest.mark.parametrize("text", ["ep", "ep=", "=2", "ep=2,ep=2", "ep=two", "ep=-1", "ep=2,"])
def test_other_forms_are_refused(text):
    with pytest.raises(CannotRunError, match="give"):
        read_mesh(text)


def test_a_value_may_hold_equals_signs():
    assert split_at_equals("a=b=c") == ("a", "b=c")
