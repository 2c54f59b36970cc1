"""One thread; and of tests with many alike cases `make test` runs a sample, `make test-all` every one."""

import hashlib

import torch

# Tests run in several processes at once; more threads than cores take a matrix product from hundreds of GF/s to a few.
torch.set_num_threads(1)

# Tests of many cases that take long together, and the part of the cases that a sample has: one in so many.
SAMPLED = {
    "tests/exact/test_soundness.py::test_a_wrong_last_segment_agrees_no_more_often_than_its_bound_after_any_number_of_cuts": 3,  # noqa: E501
    "tests/frameworks/transformers/test_repro.py::test_a_right_plan_ends_with_0": 3,
    "tests/parallel/test_checkpoint.py::test_the_next_step_on_other_ranks_is_the_single_devices_in_exact_arithmetic": 2,
    "tests/parallel/test_collectives.py::test_backward_is_the_adjoint_in_exact_arithmetic": 2,
    "tests/parallel/test_transformers.py::test_a_transformer_is_proved": 2,
    "tests/proving/running/test_recomputation.py::test_the_forward_again_over_another_group_is_wrong": 2,
    "tests/proving/running/test_scheduled.py::test_a_bug_of_the_stages_is_found_at_its_place": 2,
    "tests/proving/running/test_scheduled.py::test_every_schedule_is_proved": 2,
    "tests/proving/running/test_scheduled.py::test_gradients_that_are_not_divided_by_the_microbatches_are_found": 2,
    "tests/proving/test_context_ways.py::test_a_bug_of_split_sequences_is_killed_at_its_place_and_for_its_reason": 2,
    "tests/proving/test_context_ways.py::test_every_way_is_proved_with_documents_over_the_edges_of_shards": 2,
    "tests/proving/test_context_ways.py::test_masks_orders_and_meshes_are_proved": 3,
    "tests/proving/test_experts.py::test_every_way_to_bring_tokens_to_experts_is_proved": 2,
    "tests/proving/test_linear_attention.py::test_a_wrong_state_is_found": 2,
    "tests/proving/test_mutants.py::test_a_correct_configuration_is_proved_and_is_correct": 2,
    "tests/proving/test_pipeline_schedules.py::test_a_bug_of_pipelines_is_killed_at_its_place_and_for_its_reason": 2,
    "tests/proving/test_pipeline_schedules.py::test_every_schedule_is_proved": 2,
    "tests/proving/test_pipeline_schedules.py::test_gradients_that_are_not_divided_by_the_microbatches_are_found": 2,
    "tests/proving/test_pipeline_schedules.py::test_stages_are_proved_beside_all_else": 2,
    "tests/proving/test_selections.py::test_a_maximum_that_is_forgotten_is_found_whatever_is_drawn": 3,
    "tests/proving/test_selections.py::test_the_right_ones_are_proved_with_as_many_trials_as_it_takes": 3,
    "tests/proving/test_zero_and_accumulation.py::test_every_way_is_proved": 2,
}


def pytest_addoption(parser):
    parser.addoption("--sample", action="store_true", help="of tests with many alike cases run a fixed sample")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--sample"):
        return
    left_out = {id(item) for item in choose_left_out(items)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]


def choose_left_out(items):
    """Of each sampled test all cases but one in so many, by a hash of their names: alike in every process."""
    families = {}
    for item in items:
        families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, part in SAMPLED.items():
        cases = sorted(families.get(name, ()), key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        yield from cases[-(-len(cases) // part) :]
