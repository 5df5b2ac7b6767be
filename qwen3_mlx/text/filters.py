"""Filters, tests, string methods and functions of chat templates, each with the price it must be able to pay."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.filters import make_attrgetter

from .meter import NODE, Meter

if TYPE_CHECKING:
    from .sandbox import Sandbox

MAX_WIDTH = 10_000  # of padding, indentation, batches
# Patterns as text, compiled by the first template that formats numbers.
WIDE_PERCENT = r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\d{4}|\*)"
WIDE_FIELD = r"\{[^{}]*(?:\d{4}|\{)"

# Filters that hand on or look at single elements: what they cost, the loop over their result pays.
_PLAIN = "abs attr batch count d default first float int items last length list map reject rejectattr reverse"
_PLAIN += " round safe select selectattr slice"
# Filters that write, compare or hash their whole input: it is weighed first.
_WEIGHED = "capitalize center dictsort e escape groupby lower max min sort string title truncate unique upper"
_CAPPED = {"batch", "center", "round", "slice"}  # their number decides how much they make
_LISTING = {"batch", "groupby", "list", "slice", "sort", "unique"}  # they take a string apart
_WEIGHED_TESTS = {"==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<="}
_WEIGHED_TESTS |= {"le", "in", "sameas"}


def raise_exception(message: str) -> str:
    raise TemplateError(message)


def strftime_now(format: str) -> str:
    if len(format) > 256:
        raise SecurityError("a date format is too long")
    return datetime.now().strftime(format)


def metered_filters(env: Sandbox) -> dict[str, Callable[..., Any]]:
    """The filters on offer, bound to the meter of ``env``."""
    out: dict[str, Callable[..., Any]] = {}
    for name in _PLAIN.split():
        out[name] = _metered(env, name, DEFAULT_FILTERS[name], weigh=False)
    for name in _WEIGHED.split():
        out[name] = _metered(env, name, DEFAULT_FILTERS[name], weigh=True)
    for name, func in (
        ("tojson", tojson),
        ("join", join),
        ("replace", replace),
        ("indent", indent),
        ("sum", total),
        ("trim", trim),
    ):
        out[name] = functools.partial(func, env)
    out["format"] = functools.partial(format_text, env)
    return out


def metered_tests(env: Sandbox) -> dict[str, Callable[..., Any]]:
    return {name: _metered(env, name, func, weigh=name in _WEIGHED_TESTS) for name, func in DEFAULT_TESTS.items()}


def _metered(env: Sandbox, name: str, func: Any, weigh: bool) -> Callable[..., Any]:
    skip = 1 if hasattr(func, "jinja_pass_arg") else 0  # the context or environment that Jinja passes first
    restricted = name in _CAPPED or name in _LISTING

    @functools.wraps(func)
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter = env.meter
        meter.tick()
        if restricted:
            _restrict(meter, name, args[skip:], kwargs)
        if weigh and len(args) > skip:
            values = tuple(list(meter.metered(v)) if hasattr(v, "__next__") else v for v in args[skip:])
            meter.tick(sum(map(meter.weigh, values)) + sum(map(meter.weigh, kwargs.values())))
            args = args[:skip] + values
        return meter.made(func(*args, **kwargs))

    return metered


def _restrict(meter: Meter, name: str, given: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Charges or refuses what makes more than it was given."""
    if name in _CAPPED:
        for value in (*given[1:], *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_WIDTH:
                raise SecurityError(f"a number given to {name} is too large")
    if name in _LISTING and given and isinstance(given[0], str):
        meter.tick(NODE * len(given[0]))


def text(env: Sandbox, value: Any) -> str:
    """``value`` as text, charged for."""
    env.meter.tick(env.meter.weigh(value))
    return value if isinstance(value, str) else str(value)


def tojson(
    env: Sandbox,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' chat templates have it: key order kept, nothing escaped that need not be."""
    env.meter.tick(env.meter.weigh(value))
    if separators is not None and max(map(len, separators)) > 16:
        raise SecurityError("tojson separates by 16 characters at most")
    if indent is None:
        out = json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
    else:  # every line is indented by its depth: known only as it is written
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        if (indent if isinstance(indent, int) else len(indent)) > 64:
            raise SecurityError("tojson indents by 64 characters at most")
        pieces = []
        for piece in encoder.iterencode(value):
            env.meter.tick(NODE + len(piece))
            pieces.append(piece)
        out = "".join(pieces)
    if ensure_ascii:  # the stand-ins for control characters must stay recognizable
        for mark in env.marks:
            out = out.replace(json.dumps(mark)[1:-1], mark)
    return out


def join(env: Sandbox, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    """The elements of ``value`` as text, with ``d`` in between."""
    if attribute is not None:
        value = map(make_attrgetter(env, attribute), value)
    separator = text(env, d)
    pieces = []
    for item in value:
        env.meter.tick(NODE + len(separator))
        pieces.append(text(env, item))
    return separator.join(pieces)


def replace(env: Sandbox, value: Any, old: str, new: str, count: int | None = None) -> str:
    """``value`` with ``old`` replaced by ``new``."""
    value, old, new = text(env, value), text(env, old), text(env, new)
    limit = -1 if count is None else count
    _price_replace(env.meter, value, (old, new, limit), {})
    return str(value).replace(old, new, limit)


def indent(env: Sandbox, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Every line but the first (and blank ones) indented, as Jinja does it."""
    value = text(env, value)
    length = width if isinstance(width, int) else len(width)
    if length > MAX_WIDTH:
        raise SecurityError("an indentation is too wide")
    env.meter.tick(len(value) + (value.count("\n") + 2) * (NODE + max(length, 0)))
    return str(DEFAULT_FILTERS["indent"](value, width, first, blank))


def total(env: Sandbox, value: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    """The sum of ``value``, every addition charged for like one written out."""
    if attribute is not None:
        value = map(make_attrgetter(env, attribute), value)
    for item in value:
        start = env.call_binop(None, "+", start, item)  # type: ignore[arg-type]
    return start


def trim(env: Sandbox, value: Any, chars: str | None = None) -> str:
    """``value`` without spaces, or ``chars``, around it."""
    value = text(env, value)
    _price_search(env.meter, value, (chars,), {})
    return str(value).strip(chars)


def format_text(env: Sandbox, value: Any, *args: Any, **kwargs: Any) -> str:
    """printf-style formatting."""
    if args and kwargs:
        raise TypeError("format takes positional or keyword arguments, not both")
    value = text(env, value)
    env.check_percent(value, kwargs or args)
    return str(value % (kwargs or args))


Price = Callable[[Meter, str, tuple[Any, ...], dict[str, Any]], "tuple[Any, ...] | None"]


def _price_free(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Looks, makes nothing."""


def _price_copy(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    meter.tick(len(owner))


def _price_search(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """From the right Python searches naively, and strips by looking every character up: both take the product."""
    wanted = args[0] if args else kwargs.get("sep")
    meter.tick(len(owner) + (len(owner) * len(wanted) // 8 if isinstance(wanted, str) else 0))


def _price_split(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    separator = args[0] if args else kwargs.get("sep")
    pieces = owner.count(separator) if isinstance(separator, str) and separator else len(owner) // 2
    meter.tick(len(owner) + NODE * (pieces + 1))


def _price_rsplit(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _price_search(meter, owner, args, kwargs)
    _price_split(meter, owner, args, kwargs)


def _price_replace(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if len(args) < 2 or not isinstance(args[0], str) or not isinstance(args[1], str):
        return  # a TypeError in a moment
    places = owner.count(args[0])
    if len(args) > 2 and isinstance(args[2], int) and args[2] >= 0:
        places = min(places, args[2])
    meter.tick(len(owner) + places * len(args[1]))


def _price_join(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    items = list(meter.metered(args[0])) if args else []
    meter.tick(meter.weigh(items) + len(owner) * len(items))
    return (items, *args[1:])


def _price_pad(meter: Meter, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if args and isinstance(args[0], int):
        meter.tick(abs(args[0]))


_FREE = "startswith endswith find index count isalnum isalpha isascii isdecimal isdigit isidentifier"
_FREE += " islower isnumeric isprintable isspace istitle isupper"
_COPY = "lower upper title capitalize casefold swapcase removeprefix removesuffix partition"
METHODS: dict[str, Price] = {
    **dict.fromkeys(_FREE.split(), _price_free),
    **dict.fromkeys(_COPY.split(), _price_copy),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition"), _price_search),
    **dict.fromkeys(("split", "splitlines"), _price_split),
    "rsplit": _price_rsplit,
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _price_pad),
    "replace": _price_replace,
    "join": _price_join,
}
