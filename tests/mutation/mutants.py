"""The mutants of a file: its source with one small change each, without those that cannot be another program."""

import ast
import difflib
import random
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from tests.mutation.operators import make_operators


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change of one file.

    Attributes:
        line: of the first change, from 1.
        change: the changed lines, `before -> after`, which name the mutant wherever the line moves to.
        source: the whole file with the change.
    """

    line: int
    change: str
    source: str


def make_mutants(source):
    """Every mutant of a file, in the order of its lines; no two alike."""
    tree, program = get_ast(source), _read_program(source)
    found = {}
    for operator in make_operators().values():
        nodes = [node for node in ast_nodes(tree) for _ in operator.mutation_positions(node)]
        for occurrence, node in enumerate(nodes):
            if node.parent is not None and node.parent.type == "parameters":  # `*` between parameters is no product
                continue
            mutated = mutate_code(source, operator, occurrence)
            if mutated is not None and mutated not in found and _is_another_program(program, mutated):
                found[mutated] = Mutant(**_describe(source, mutated), source=mutated)
    return sorted(found.values(), key=lambda mutant: (mutant.line, mutant.change))


def draw_sample(mutants, size, *, seed):
    """So many of them in their order, the same for the same seed; all if `size` is None or there are no more."""
    if size is None or size >= len(mutants):
        return mutants
    chosen = set(random.Random(seed).sample(range(len(mutants)), size))
    return [mutant for i, mutant in enumerate(mutants) if i in chosen]


def _is_another_program(program, mutated):
    try:
        return _read_program(mutated) != program
    except SyntaxError:
        return False


def _read_program(source):
    """What is run: without annotations, which nothing evaluates here, without imports for types only, and without the
    restrictions of dataclasses, which change no program that keeps to them.
    """
    return ast.dump(_Bare().visit(ast.parse(source)))


class _Bare(ast.NodeTransformer):
    def visit_keyword(self, node):
        return None if node.arg in ("frozen", "slots", "kw_only") else self.generic_visit(node)

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_If(self, node):
        for_types = any(isinstance(part, ast.Name) and part.id == "TYPE_CHECKING" for part in ast.walk(node.test))
        return None if for_types else self.generic_visit(node)


def _describe(source, mutated):
    """Where two sources differ: the first line, and the lines before and after."""
    old, new = source.splitlines(), mutated.splitlines()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    _, start, stop, new_start, new_stop = next(block for block in blocks if block[0] != "equal")
    before, after = (" ".join(line.strip() for line in lines) for lines in (old[start:stop], new[new_start:new_stop]))
    return {"line": start + 1, "change": f"{before} -> {after}"}
