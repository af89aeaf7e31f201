"""Small changes of Python source, each of which is a mistake that somebody could have made.

A change replaces a few characters, so that line numbers and all the rest of the file stay what they are.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
OTHER_NAME = {
    one: other
    for pair in (
        ("min", "max"),
        ("minimum", "maximum"),
        ("amin", "amax"),
        ("floor", "ceil"),
        ("all", "any"),
        ("zeros", "ones"),
        ("zeros_", "ones_"),
        ("zeros_like", "ones_like"),
        ("sum", "mean"),
        ("no_grad", "enable_grad"),
    )
    for one, other in (pair, pair[::-1])
}
"""Functions and methods that stand in for each other with the same arguments."""

OMITTED = (
    *("clamp", "clone", "contiguous", "detach", "double", "exp", "float", "floor", "log", "long", "nan_to_num"),
    *("relu", "sigmoid", "sqrt"),
)
"""Methods, and functions of one argument, that can be left out."""

ORDERED = ("where", "clamp", "split", "logit")
"""Functions and methods whose last two positional arguments are exchanged."""


class Change(NamedTuple):
    """Bytes [start, end) of the source become other ones."""

    start: int
    end: int
    replacement: str
    scope: str
    """The function or class around it, as `Class.method`; empty at the top of the module."""


def changes(source: str) -> Iterator[Change]:
    """All of them, in no particular order; some give what is no Python, or what does the same."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    yield from finder.found


class _Finder(ast.NodeVisitor):
    """Passes over type hints, text, and what is said in errors."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.line_starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))
        self.scopes: list[str] = []
        self.found: list[Change] = []

    def start_of(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def end_of(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def text_of(self, node: ast.expr | ast.stmt) -> str:
        return self.source[self.start_of(node) : self.end_of(node)].decode()

    def change(self, start: int, end: int, replacement: str) -> None:
        self.found.append(Change(start, end, replacement, ".".join(self.scopes)))

    def change_between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """An operator, which has no place of its own in the tree."""
        start, end = self.end_of(left), self.start_of(right)
        pattern = r"\s+".join(map(re.escape, old.split())).encode()
        if match := re.search(pattern, self.source[start:end]):
            self.change(start + match.start(), start + match.end(), new)

    # What is passed over, wholly or in part

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        defaults = (*node.args.defaults, *filter(None, node.args.kw_defaults))
        self.visit_within(node.name, [*node.decorator_list, *defaults, *node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_within(node.name, node.body)

    def visit_within(self, name: str, parts: Sequence[ast.AST]) -> None:
        self.scopes.append(name)
        for part in parts:
            self.visit(part)
        self.scopes.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is not tested word by word."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text."""

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of a zip: guards against mistakes elsewhere
            self.visit(node.value)

    # What is changed

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            self.change_between(left, right, *COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC:
            self.change_between(node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            self.change_between(node.target, node.value, f"{old}=", f"{new}=")
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.change_between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start = self.start_of(node)
        if isinstance(node.op, ast.Not):
            self.change(start, start + len("not "), "")
        elif isinstance(node.op, ast.USub):
            self.change(start, start + 1, "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        others: tuple[object, ...] = ()
        if isinstance(value, bool):
            others = (not value,)
        elif isinstance(value, int):
            others = (value + 1, value - 1) if value > 0 else (value + 1,)
        elif isinstance(value, float):
            others = (2 * value,) if value else (1.0,)
        for other in others:
            self.change(self.start_of(node), self.end_of(node), repr(other))

    def visit_If(self, node: ast.If | ast.IfExp | ast.While) -> None:
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):  # those are changed themselves
            self.change(self.start_of(node.test), self.end_of(node.test), f"not ({self.text_of(node.test)})")
        self.generic_visit(node)

    visit_IfExp = visit_While = visit_If  # noqa: N815

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self.change(self.start_of(condition), self.end_of(condition), "True")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.change(self.start_of(node), self.end_of(node), "break")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not self.text_of(node).startswith("super()"):
            self.change(self.start_of(node), self.end_of(node), "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        name_start = self.end_of(function) - len(name)
        if name in OTHER_NAME and (name not in ("sum", "mean") or isinstance(function, ast.Attribute)):
            self.change(name_start, name_start + len(name), OTHER_NAME[name])
        if name in OMITTED and isinstance(function, ast.Attribute):
            is_of_module = len(node.args) == 1 and not node.keywords and isinstance(function.value, ast.Name)
            if is_of_module:  # torch.exp(x) -> (x)
                self.change(self.start_of(node), self.end_of(function), "")
            else:  # x.clamp(min=0) -> x
                self.change(name_start - len("."), self.end_of(node), "")
        if name in ORDERED and len(node.args) > 1:
            first, second = node.args[-2:]
            between = self.source[self.end_of(first) : self.start_of(second)].decode()
            exchanged = self.text_of(second) + between + self.text_of(first)
            self.change(self.start_of(first), self.end_of(second), exchanged)
        if name == "clamp":
            for keyword in node.keywords:
                self.change(self.start_of(keyword), self.end_of(keyword.value), f"{keyword.arg}=None")
        if name == "isinstance":  # the bar of a union of types is no arithmetic
            self.visit(node.args[0])
        else:
            self.generic_visit(node)
