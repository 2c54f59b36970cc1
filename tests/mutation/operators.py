"""Which small changes are made to a file: Cosmic Ray's operators, and two of ours, of the same interface.

Cosmic Ray replaces an operator by each of the others. Here one or two of them are taken, the likely slips: most of the
rest raise a TypeError on tensors, and a mutant that any call kills says nothing of the tests.
"""

import parso
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator

CHOSEN = (
    *("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("NumberReplacer", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_Invert"),
    *("ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq"),
    *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_Lt_GtE"),
    *("ReplaceComparisonOperator_LtE_Lt", "ReplaceComparisonOperator_LtE_Gt"),
    *("ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_Gt_LtE"),
    *("ReplaceComparisonOperator_GtE_Gt", "ReplaceComparisonOperator_GtE_Lt"),
    *("ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_Mul_Div"),
    *("ReplaceBinaryOperator_Div_Mul", "ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_FloorDiv"),
    *("ReplaceBinaryOperator_Pow_Mul", "ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr"),
    *("ReplaceBinaryOperator_BitXor_BitAnd", "ReplaceBinaryOperator_RShift_LShift"),
    "ReplaceBinaryOperator_LShift_RShift",
)


class DropOperand(Operator):
    """`a * b + c` becomes `a + c`, `b + c` and `a * b`: a factor, a summand or a condition is forgotten."""

    _KINDS = ("term", "arith_expr", "and_test", "or_test", "and_expr", "expr")
    _ALSO_THE_FIRST = ("*", "+", "and", "or", "&", "|")

    def mutation_positions(self, node):
        """One for each operand that may go."""
        for _ in self._choices(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        """The expression without the operand."""
        start, stop = list(self._choices(node))[index]
        rest = "".join(child.get_code() for child in (*node.children[:start], *node.children[stop:]))
        before = node.get_first_leaf().prefix
        return parso.parse(before + rest.strip())

    def _choices(self, node):
        """Of children: the operand and the operator before it, or for the first one the operator behind it."""
        if getattr(node, "type", None) in self._KINDS:
            if node.children[1].value in self._ALSO_THE_FIRST:
                yield 0, 2
            for i in range(1, len(node.children), 2):
                yield i, i + 2

    @classmethod
    def examples(cls):
        """For Cosmic Ray's own tests."""
        return (Example("x * y", "y"), Example("x * y", "x", occurrence=1), Example("x - y", "x"))


class DropStatement(Operator):
    """A call that is a statement, or an augmented assignment, becomes `pass`."""

    def mutation_positions(self, node):
        """The statement, if it is of this kind."""
        if self._may_go(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node, _index):
        """The line without the statement."""
        return parso.parse(f"{node.get_first_leaf().prefix}pass\n")

    def _may_go(self, node):
        if getattr(node, "type", None) != "simple_stmt":
            return False
        statement = node.children[0]
        if statement.type == "expr_stmt":
            return statement.children[1].type == "operator" and statement.children[1].value not in ("=", ":")
        return statement.type in ("atom_expr", "power")

    @classmethod
    def examples(cls):
        """For Cosmic Ray's own tests."""
        return (Example("f(x)\n", "pass\n"), Example("x += 1\n", "pass\n"))


def make_operators():
    """Every operator, by its name."""
    theirs = {name: get_operator(f"core/{name}")() for name in CHOSEN}
    return {**theirs, "DropOperand": DropOperand(), "DropStatement": DropStatement()}
