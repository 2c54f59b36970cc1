"""A mixin for `unittest.TestCase`, in the manner of PyTorch's DTensorTestBase: a class says on how many devices.

class TestMySharding(shardproof.ProofTestMixin, unittest.TestCase):
    world_size = 4

    def test_mlp(self):
        self.assertProved(step, parallelize=my_parallelize)

The ranks are simulated, or spawned with `spawn=True`, by the proof itself: the test runs once, in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from shardproof.report.assertion import NotProvedError, assert_proved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.proving.findings import Proof
    from shardproof.proving.step import Step

__unittest = True  # unittest leaves the frames of such a module out of what it prints


class ProofTestMixin:
    """Proofs of sharded training steps as assertions of a test case.

    Attributes:
        world_size: how many ranks there are, on one axis `tp`.
        mesh: instead, the sizes of the mesh's axes by name.
    """

    world_size: ClassVar[int] = 2
    mesh: ClassVar[Mapping[str, int] | None] = None
    failureException: type[BaseException]

    def assertProved(self, step: Step, **settings: Any) -> Proof:  # noqa: N802 - as unittest names its assertions
        """Prove, and return the proof.

        Args:
            step: what a training step is.
            settings: those of `prove`: `parallelize`, `candidate`, `trials` and so on; `devices` and `mesh` over those
                of the class.

        Raises:
            AssertionError: `failureException` of the test case: the first cause, and the report below it.
            CannotRunError: a side cannot be built or run.
        """
        __tracebackhide__ = True
        if "devices" not in settings and "mesh" not in settings:
            settings |= {"devices": self.world_size} if self.mesh is None else {"mesh": self.mesh}
        try:
            return assert_proved(step, **settings)
        except NotProvedError as error:
            # Of exactly this class: unittest leaves out the frames of this module for no other.
            raise self.failureException(str(error)) from None
