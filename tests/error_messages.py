"""The messages that users meet, as the source raises them: templates, with a NUL in place of what varies."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from tests.source_tree import PACKAGE

VARIES = "\0"
# Errors of users begin here; those that derive from them in the package are found. `NotImplementedError` of a rule says
# why an op is refused.
BASES = {"CannotRunError", "ExactArithmeticError"}
REASONS = ("exact/rules/",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One text that may be raised, and where."""

    text: str
    where: str


def list_messages():
    """All of them, those of a function that is called for the text included."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    errors = _find_errors(trees.values())
    functions = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append(node)
    found = []
    for path, tree in trees.items():
        name = str(path.relative_to(PACKAGE))
        wanted = errors | ({"NotImplementedError"} if name.startswith(REASONS) else set())
        for function, node in _list_raises(tree):
            if isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in wanted and node.exc.args:
                texts = _read_texts(node.exc.args[0], function, tree, functions)
                found += [Message(text=text, where=f"{name}:{node.lineno}") for text in texts]
    return [message for message in found if _count_literal(message.text) >= 2]


def _find_errors(trees):
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    errors = set(BASES)
    while True:
        more = {one.name for one in classes if {ast.unparse(base) for base in one.bases} & errors} - errors
        if not more:
            return errors
        errors |= more


def _list_raises(tree):
    """Each `raise`, with the function it stands in."""

    def walk(node, function):
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, ast.FunctionDef) else function
            if isinstance(child, ast.Raise):
                yield inner, child
            yield from walk(child, inner)

    yield from walk(tree, None)


def _read_texts(node, function, tree, functions):
    """The texts that an expression may be; none where only a run could tell."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)]
    if isinstance(node, ast.IfExp):
        return [text for one in (node.body, node.orelse) for text in _read_texts(one, function, tree, functions)]
    if isinstance(node, ast.BinOp):
        lefts, rights = (_read_texts(one, function, tree, functions) for one in (node.left, node.right))
        return [left + right for left in lefts or [VARIES] for right in rights or [VARIES]]
    if isinstance(node, ast.Name):
        assigned = [
            one.value
            for scope in (function, tree)
            if scope is not None
            for one in ast.walk(scope)
            if isinstance(one, ast.Assign) and any(ast.unparse(target) == node.id for target in one.targets)
        ]
        return [text for value in assigned[:1] for text in _read_texts(value, function, tree, functions)]
    if isinstance(node, ast.Call):
        called = functions.get(ast.unparse(node.func), [])
        returned = [
            (one, statement.value)
            for one in called
            for statement in ast.walk(one)
            if isinstance(statement, ast.Return)
            and isinstance(statement.value, ast.Constant | ast.JoinedStr | ast.BinOp)
        ]
        return [text for one, value in returned for text in _read_texts(value, one, tree, functions)]
    return []


def _count_literal(text):
    """How many words of a message are its own."""
    return len(re.findall(r"[A-Za-z]+", text.replace(VARIES, " ")))
