"""Rewrites tests so that a candidate's own names and classes do not decide what a test means.

In a test, ``len`` is Python's even if the candidate defines another, and comparisons, arithmetic
and the arguments of ``assertEqual`` and similar are checked by
:mod:`aligntune.rewards.sandbox.integrity`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Sequence

PREFIX = "__aligntune_"
COMPARE, COMPUTE, TOGETHER = (f"{PREFIX}{name}__" for name in ("compare", "compute", "together"))
"""Names of functions that the sandbox provides."""

ESSENTIAL = frozenset({"super", "locals", "globals", "vars", "__import__", "__build_class__"})
"""Builtins that depend on where they are called, or that syntax uses."""


def harden(statements: Sequence[ast.stmt], context: Iterable[ast.stmt] = ()) -> str:
    """The source of hardened statements.

    Args:
        statements: the code; it stays unchanged.
        context: all of the tests, which may bind names that the statements use.
    """
    whole = ast.Module(body=[*statements, *context], type_ignores=[])
    tree = ast.parse(ast.unparse(ast.Module(body=list(statements), type_ignores=[])))
    hardened = _Hardener(_pythons_own(whole)).visit(tree)
    return ast.unparse(ast.fix_missing_locations(hardened))


def _pythons_own(tree: ast.AST) -> frozenset[str]:
    """The builtins that mean Python's in these tests: all that the tests do not bind themselves.

    If the tests call nothing but builtins, such as ``sum``, one of them is what they test.
    """
    bound, called = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    names = frozenset(dir(builtins)) - ESSENTIAL
    functions = frozenset(name for name in names if callable(getattr(builtins, name)))
    return functions - bound if called - names else frozenset()


class _Hardener(ast.NodeTransformer):
    def __init__(self, own: frozenset[str]) -> None:
        self._own = own

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load) and node.id in self._own:
            return ast.copy_location(ast.Name(f"{PREFIX}{node.id}__", ast.Load()), node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if all(isinstance(one, (ast.Is, ast.IsNot)) for one in node.ops):
            return node
        words = ast.Constant(" ".join(type(one).__name__ for one in node.ops))
        return _call(COMPARE, words, node.left, *node.comparators)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if _is_literal(node):
            return node
        return _call(COMPUTE, ast.Constant(type(node.op).__name__), node.left, node.right)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name.startswith("assert") and len(node.args) > 1 and "Raises" not in name:
            node.args = [ast.Starred(_call(TOGETHER, *node.args), ast.Load())]
        return node

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        return node  # only literals and dotted names may be here


def _is_literal(node: ast.expr) -> bool:
    return all(isinstance(one, (ast.BinOp, ast.Constant, ast.operator)) for one in ast.walk(node))


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])
