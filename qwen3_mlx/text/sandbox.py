"""Chat templates as metered programs: Jinja's immutable sandbox, in which every step counts.

The dialect is the one chat templates are written for: blocks trimmed, ``break`` and ``continue``, ``raise_exception``,
``strftime_now``, ``{% generation %}``, a ``tojson`` that keeps key order and non-ASCII characters. The generated code
differs from Jinja's in that each block looks at the meter, and operators, comparisons, slices, joins and calls go
through methods that charge for their result first. Filters and methods whose cost cannot be told beforehand
(``urlize``, ``str.translate``) are not offered.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from . import filters
from .meter import NODE, Meter

MAX_FORMAT = 4096  # characters of a format string
MAX_SYMBOLS = 2_000_000  # variables times branches; the released templates have about a thousand
MAX_BITS = 1 << 16  # of an integer that is calculated with


class GenerationBlock(Extension):
    """``{% generation %}…{% endgeneration %}`` marks what an assistant said, for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class MeteredCode(CodeGenerator):
    """Jinja's code generator with the meter built in."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.environment.meter.tick()  # type: ignore[attr-defined]
        return super().visit(node, *args, **kwargs)

    def blockvisit(self, body: Iterable[nodes.Node], frame: Frame) -> None:
        body = list(body)  # statements, all of them surveyed
        self.writeline(f"environment.meter.tick({sum(node.constant_text for node in body)})")  # type: ignore[attr-defined]
        super().blockvisit(body, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test is not None:
            node.test = nodes.And(nodes.EnvironmentAttribute("ticked"), node.test)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        join = "str_join"
        if frame.eval_ctx.volatile:
            join = "(markup_join if context.eval_ctx.volatile else str_join)"
        elif frame.eval_ctx.autoescape:
            join = "markup_join"
        self.write(f"{join}(environment.pieces((")
        for item in node.nodes:
            self.visit(item, frame)
            self.write(", ")
        self.write(")))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        if sum(not _is_literal(side) for side in (node.expr, *(op.expr for op in node.ops))) < 2:
            super().visit_Compare(node, frame)
            return
        self.write("(")
        self._visit_weighed(node.expr, frame)
        for op in node.ops:
            self.write(f" {operators[op.op]} ")
            self._visit_weighed(op.expr, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx != "load" or _is_literal(node):
            super().visit_Tuple(node, frame)
            return
        self.write("environment.meter.weighed(")  # a tuple can be a key: what it costs to hash is bounded here
        super().visit_Tuple(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for item in node.items:
            if _is_literal(item.key):
                self.visit(item.key, frame)
            else:  # hashed
                self._visit_weighed(item.key, frame)
            self.write(": ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        self.write(", slice(")
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.visit(bound if bound is not None else nodes.Const(None), frame)
            self.write(", ")
        self.write("))")

    def _visit_weighed(self, node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.meter.weighed(")
        self.visit(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one chat template. ``meter`` and ``marks`` (the stand-ins in use, see
    ``trust.py``) are set anew for each rendering; one rendering at a time.
    """

    code_generator_class = MeteredCode
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        self.meter = Meter()
        self.marks = ""
        extensions = [GenerationBlock, LoopControlExtension]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self._finalize)
        self.filters = dict(filters.metered_filters(self))
        self.tests = dict(filters.metered_tests(self))
        self.globals.pop("lipsum")
        self.globals.update(raise_exception=filters.raise_exception, strftime_now=filters.strftime_now)
        self._functions = {id(f) for f in self.globals.values()}

    def parse_bounded(self, source: str) -> nodes.Template:
        """The syntax tree of a template that can be compiled in bounded time: Jinja copies its table of variables for
        every branch.
        """
        tree = self.parse(source)
        survey = _Survey()
        survey.measure(tree)
        if len(survey.variables) * survey.branches > MAX_SYMBOLS:
            raise SecurityError("it has too many variables and branches")
        return tree

    @property
    def ticked(self) -> bool:
        """True, and one step of the meter: for conditions in generated code."""
        return self.meter.tick()

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; a dictionary hashes the argument."""
        return super().getitem(obj, argument if type(argument) in (str, int) else self.meter.weighed(argument))

    def sliced(self, obj: Any, part: slice) -> Any:
        """``obj[a:b:c]``, charged for."""
        return self.meter.made(obj[part])

    def pieces(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """The operands of ``~``, charged for as text."""
        self.meter.tick(sum(map(self.meter.weigh, items)))
        return items

    def _finalize(self, value: Any) -> Any:
        self.meter.tick(len(value) if type(value) is str else self.meter.weigh(value))
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, charged for before it is applied."""
        meter = self.meter
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            meter.tick(len(left) + len(right))
            return left + right
        meter.tick()
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise SecurityError("the numbers are too large")
        elif operator == "%" and isinstance(left, str):
            self.check_percent(left, right)
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
                    meter.tick(max(times, 0) * (len(sequence) if isinstance(sequence, str) else NODE * len(sequence)))
        elif operator == "+" and isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            meter.tick(NODE * (len(left) + len(right)))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, if its cost can be bounded; else SecurityError."""
        __self.meter.tick()
        owner = getattr(__obj, "__self__", None)
        if id(__obj) in __self._functions or isinstance(__obj, (Macro, LoopContext, BlockReference, Undefined, Joiner)):
            if __obj is dict or __obj is Namespace:
                args = tuple(list(__self.meter.metered(a)) if hasattr(a, "__next__") else a for a in args)
                __self.meter.tick(sum(map(__self.meter.weigh, args)))
            return super().call(__context, __obj, *args, **kwargs)
        name = getattr(__obj, "__name__", "")
        if isinstance(__obj, types.FunctionType) and name == "format":  # str.format, wrapped on access by the sandbox
            __self.check_format(__obj.__wrapped__.__self__, (args, kwargs))  # type: ignore[attr-defined]
        elif isinstance(owner, str) and name in filters.METHODS:
            args = filters.METHODS[name](__self.meter, owner, args, kwargs) or args
        elif isinstance(owner, dict) and name in ("get", "items", "keys", "values"):
            __self.meter.weighed(args[0] if args else None)
        elif isinstance(owner, (list, tuple)) and name in ("index", "count"):
            __self.meter.tick(__self.meter.weigh(owner) and __self.meter.weigh(args) and 0)
        elif isinstance(owner, LoopContext) and name in ("cycle", "changed"):
            __self.meter.weigh(args)
        elif isinstance(owner, Cycler) and name in ("next", "reset"):
            pass
        elif not (isinstance(owner, float) and name == "is_integer"):
            what = f"{type(owner).__name__}.{name}" if owner is not None and name else type(__obj).__name__
            raise SecurityError(f"{what}() is not offered to chat templates")
        return __self.meter.made(super().call(__context, __obj, *args, **kwargs))

    def check_percent(self, text: str, values: Any) -> None:
        """Charges for ``text % values``; widths have at most three digits."""
        if len(text) > MAX_FORMAT or re.search(filters.WIDE_PERCENT, text):
            raise SecurityError("a format string is too long or too wide")
        self.meter.tick(text.count("%") * (1000 + self.meter.weigh(values)))

    def check_format(self, text: str, values: Any) -> None:
        """Charges for ``text.format(values)``; widths have at most three digits and are not fields themselves."""
        if len(text) > MAX_FORMAT or re.search(filters.WIDE_FIELD, text):
            raise SecurityError("a format string is too long or too wide")
        self.meter.tick(text.count("{") * (1000 + self.meter.weigh(values)))


class _Survey:
    """One walk over a syntax tree: how many variables and branches, and into each node (``constant_text``) how many
    characters it can put out by itself in one pass.
    """

    def __init__(self) -> None:
        self.variables: set[str] = set()
        self.branches = 0

    def measure(self, node: nodes.Node) -> int:
        size = 0
        if isinstance(node, nodes.TemplateData):
            size = len(node.data)
        elif isinstance(node, nodes.Const):
            size = len(node.value) if isinstance(node.value, str) else 0
        elif isinstance(node, nodes.Name):
            self.variables.add(node.name)
        else:
            self.branches += isinstance(node, _BRANCHES)
            size = sum(map(self.measure, node.iter_child_nodes()))
        node.constant_text = size  # type: ignore[attr-defined]
        return size


_BRANCHES = (nodes.If, nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


def _is_literal(node: nodes.Expr) -> bool:
    """A scalar or a flat list of scalars: comparing with it is quick whatever the other side is."""
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)
