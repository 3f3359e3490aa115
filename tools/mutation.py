"""Operators on syntax trees: every small change of a source file that a test ought to notice.

A change is a piece of text and what takes its place, so that all the rest of the file stays as it was. Left out is what
does not compute: docstrings, texts of errors, annotations, decorators, `__str__`, and `strict=`, a check of our own.
"""

import ast
import dataclasses
from collections.abc import Iterator

COMPARISONS = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.Mod: "//"}
NAMES = {
    **{"sum": "mean", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all"},
    **{"all": "any", "UPTO": "FROM", "FROM": "UPTO", "BEFORE": "AFTER", "AFTER": "BEFORE", "SAME": "UPTO"},
    **{"zeros": "ones", "zeros_like": "ones_like", "ones": "zeros", "ones_like": "zeros_like", "INF": "MAX_WIDTH"},
    **{"cumsum": "cumprod", "multiply": "add", "reversed": "list", "sorted": "list", "isfinite": "isnan"},
}
# Calls whose result could be mistaken for an argument, and those whose last two arguments could be mixed up.
SAME_TYPE = set(
    """stop_gradient union join mixed shifted through expand aligned windowed zero_where_idle broadcast_to reshape
    transpose moveaxis expand_dims lifted magic guard_branch concatenate flip squeeze""".split()
)
SYMMETRIC = {"where", "join", "hull", "composed", "_difference", "subtract"}
SKIPPED_FUNCTIONS = {"__str__", "__repr__"}


@dataclasses.dataclass(frozen=True, order=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: Path from the root of the repository.
        line: Number of the line on which the change begins.
        operator: Kind of change.
        start: Offset in bytes where it begins.
        stop: Offset in bytes where it ends.
        before: What stands there.
        after: What takes its place.
        text: The line.
        place: Offset in this line.
    """

    file: str
    line: int
    operator: str
    start: int
    stop: int
    before: str
    after: str
    text: str
    place: int

    def apply(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.after.encode() + source[self.stop :]

    @property
    def name(self) -> str:
        """What stays the same when lines move."""
        squeeze = lambda text: " ".join(text.split())
        change = f"{squeeze(self.before)} -> {squeeze(self.after)}"
        return f"{self.file} | {self.text} | {self.operator} at {self.place} | {change}"


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """List all mutants of a file, in order."""
    found = []
    for operator, start, stop, after in _Finder(source).changes():
        before = source[start:stop].decode()
        line = source[:start].count(b"\n") + 1
        text = source.split(b"\n")[line - 1].decode()
        place = start - source.rfind(b"\n", 0, start) - 1 - (len(text) - len(text.lstrip()))
        mutant = Mutant(file, line, operator, start, stop, before, after, text.strip(), place)
        if _differs(source, mutant):
            found.append(mutant)
    return sorted(set(found))


def _differs(source: bytes, mutant: Mutant) -> bool:
    try:
        changed = ast.parse(mutant.apply(source))
    except SyntaxError:
        return False
    return ast.dump(changed) != ast.dump(ast.parse(source))


Change = tuple[str, int, int, str]


class _Finder:
    def __init__(self, source: bytes):
        self.source, self.tree = source, ast.parse(source)
        self.starts = [0]
        for line in source.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)

    def changes(self) -> Iterator[Change]:
        for node in self._nodes(self.tree):
            for operator, changed, after in self._of(node):
                yield operator, self._at(changed), self._end(changed), after

    def _nodes(self, node: ast.AST) -> Iterator[ast.AST]:
        """Walk through all nodes that compute."""
        for child in _children(node):
            if not _is_silent(child):
                yield child
                yield from self._nodes(child)

    # Places and texts.
    def _at(self, node) -> int:
        return node[0] if isinstance(node, tuple) else self.starts[node.lineno - 1] + node.col_offset

    def _end(self, node) -> int:
        return node[1] if isinstance(node, tuple) else self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node) -> str:
        return self.source[self._at(node) : self._end(node)].decode()

    def _between(self, left, right) -> tuple[tuple[int, int], str]:
        """Return the place and text of what stands between two nodes: an operator, and brackets."""
        place = self._end(left), self._at(right)
        return place, self.source[place[0] : place[1]].decode()

    def _of(self, node) -> Iterator[tuple]:
        kind = type(node).__name__.lower()
        yield from getattr(self, f"_{kind}", lambda node: ())(node)

    # Operators.
    def _compare(self, node):
        if len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            place, text = self._between(node.left, node.comparators[0])
            brackets = text.count(")"), text.count("(")
            new = COMPARISONS[type(node.ops[0])]
            yield "comparison", place, ")" * brackets[0] + f" {new} " + "(" * brackets[1]

    def _binop(self, node):
        if type(node.op) in ARITHMETIC and not any(_is_text(side) for side in (node.left, node.right)):
            place, text = self._between(node.left, node.right)
            new = ARITHMETIC[type(node.op)]
            yield "arithmetic", place, ")" * text.count(")") + f" {new} " + "(" * text.count("(")

    def _boolop(self, node):
        word = " or " if isinstance(node.op, ast.And) else " and "
        yield "and/or", node, "(" + word.join(f"({self._text(value)})" for value in node.values) + ")"
        for dropped in range(len(node.values)):
            kept = [f"({self._text(value)})" for i, value in enumerate(node.values) if i != dropped]
            yield "drop operand", node, "(" + (" and " if word == " or " else " or ").join(kept) + ")"

    def _unaryop(self, node):
        if isinstance(node.op, (ast.Not, ast.USub)):
            yield "drop not or minus", node, f"({self._text(node.operand)})"

    def _constant(self, node):
        if isinstance(node.value, bool):
            yield "constant", node, str(not node.value)
        elif isinstance(node.value, int):
            yield "constant", node, str({0: 1, 1: 0}.get(node.value, node.value + 1))

    def _ifexp(self, node):
        yield "condition", node.test, f"(not ({self._text(node.test)}))"

    def _if(self, node):
        yield "condition", node.test, f"(not ({self._text(node.test)}))"
        if not node.orelse and isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue)):
            yield "drop statement", node, "pass"

    def _comprehension(self, node):
        for test in node.ifs:
            yield "condition", test, "True"

    def _expr(self, node):
        if isinstance(node.value, ast.Call):
            yield "drop statement", node, "pass"

    def _assign(self, node):
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            yield "drop statement", node, "pass"

    def _augassign(self, node):
        yield "drop statement", node, "pass"

    def _return(self, node):
        value = node.value
        if isinstance(value, (ast.Compare, ast.BoolOp)) or (isinstance(value, ast.Call) and _name(value) in NAMES):
            yield "return", value, f"(not ({self._text(value)}))" if not isinstance(value, ast.Call) else "False"
        if isinstance(value, ast.Call) and _name(value) in SAME_TYPE and isinstance(value.args[0], ast.Name):
            yield "return", value, self._text(value.args[0])

    def _call(self, node):
        name = _name(node)
        if name in SYMMETRIC and len(node.args) in (2, 3):
            yield from self._swapped(*node.args[-2:])
        if name == "stop_gradient" and len(node.args) == 1:
            yield "stop_gradient", node, f"({self._text(node.args[0])})"
        for keyword in node.keywords:
            if keyword.arg not in (None, "strict"):
                yield from self._without(node, keyword)

    def _swapped(self, first, second):
        place = self._at(first), self._end(second)
        between = self.source[self._end(first) : self._at(second)].decode()
        yield "swap arguments", place, self._text(second) + between + self._text(first)

    def _without(self, call, keyword):
        """Drop a keyword with the comma in front of it, if it is not the first argument."""
        given = sorted([*call.args, *call.keywords], key=self._at)
        number = given.index(keyword)
        if number:
            yield "drop keyword", (self._end(given[number - 1]), self._end(keyword)), ""

    def _name(self, node):
        if isinstance(node.ctx, ast.Load) and node.id in NAMES:
            yield "name", node, NAMES[node.id]
        if isinstance(node.ctx, ast.Load) and node.id == "reverse":
            yield "reverse", node, "(not reverse)"

    def _attribute(self, node):
        place = self._end(node.value), self._end(node)
        if isinstance(node.ctx, ast.Load) and node.attr in NAMES:
            yield "name", place, f".{NAMES[node.attr]}"
        if isinstance(node.ctx, ast.Load) and node.attr == "reverse":
            yield "reverse", node, f"(not {self._text(node)})"


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Return the parts of a node that compute: no annotation, no decorator, no check of lengths."""
    skipped = {"annotation", "returns", "decorator_list"}
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in skipped:
                yield child


def _is_silent(node: ast.AST) -> bool:
    """Tell whether a node computes nothing that a test of results could see."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
        return True
    if isinstance(node, ast.keyword):
        return node.arg == "strict"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        builds_error = node.returns is not None and ast.unparse(node.returns).endswith("Error")
        return node.name in SKIPPED_FUNCTIONS or node.name == "error" or builds_error
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Call) and _name(node).endswith("Error")


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_text(node) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
