"""Templates that try to take all time or all memory. Each must be stopped; run as a program, it tries them all.

As a program it limits its own address space, so that a template that gets hold of too much memory ends in a
MemoryError, which is reported as such. Prints one line of JSON per template: name, seconds of processor
time, message.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

DOUBLE = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = EXPR %}{% endfor %}{{ ns.x }}"
NEST = "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = EXPR %}{% endfor %}"
DEEP = NEST.replace("60", "3000").replace("[]", "1")
DEEP_PAIRS = DEEP.replace("EXPR", "({1: ns.x}.items()|list)[0]")
BIG = "{% set ns = namespace(x='<a b>') %}{% for i in range(20) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"


def _each(pattern: str, count: int) -> str:
    """``pattern`` again and again, with ``@`` counting and ``#`` one ahead."""
    return "".join(pattern.replace("@", str(i)).replace("#", str(i + 1)) for i in range(count))


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"

TEMPLATES = {
    "nested loops": LOOPS.replace("BODY", ""),
    "nested loops that print": LOOPS.replace("BODY", "x"),
    "nested loops with a static text": LOOPS.replace("BODY", "x" * 20_000),
    "nested loops that print a variable": LOOPS.replace("BODY", "{{ messages }}"),
    "nested loops with continue": LOOPS.replace("BODY", "{% continue %}"),
    "a loop's else": "{% for a in range(99999) %}{% for b in [] %}{% else %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "a test that is never true": LOOPS.replace("b in range(99999)", "b in range(99999) if a < 0"),
    "a test with a filter": "{% for a in range(99999) if range(99999)|list|length == a %}{% endfor %}",
    "lazy filters": "{{ range(99999)|map('string')|map('length')|select('gt', range(99999)|sum)|list }}" * 40,
    "map over ranges": "{% for a in range(99999) %}{{ range(99999)|map('upper')|join|length }}{% endfor %}",
    "sum of lists": "{{ range(99999)|map('string')|map('list')|sum(start=[])|length }}",
    "sum in loops": "{% for a in range(99999) %}{{ range(99999)|sum }}{% endfor %}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "recursive loop, wide": "{% for a in range(900) recursive %}{{ loop(range(900)) if loop.depth < 9 }}{% endfor %}",
    "recursive macro": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "binary macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "binary macro that returns text": "{% macro f(n) %}{% if n %}{{ f(n-1) ~ f(n-1) }}{% else %}x{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "block that calls itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "caller": "{% macro f() %}{% for i in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call f() %}{% call f() %}x{% endcall %}{% endcall %}",
    "string times number": "{{ 'a' * 10000000000 }}",
    "number times string": "{{ 10000000000 * 'a' }}",
    "list times number": "{{ [1] * 10000000000 }}",
    "tuple times number": "{{ (1, 2) * 10000000000 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "repeated squares": "{% set ns = namespace(x=7) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "huge hexadecimal": BIG.replace("<a b>", "f" * 5) + "{% set n = ns.x|int(base=16) %}{{ n // 3 }}",
    "doubling with +": DOUBLE.replace("EXPR", "ns.x + ns.x"),
    "doubling with ~": DOUBLE.replace("EXPR", "ns.x ~ ns.x"),
    "doubling with join": DOUBLE.replace("EXPR", "[ns.x, ns.x]|join"),
    "doubling with str.join": DOUBLE.replace("EXPR", "ns.x.join(['', '', ''])"),
    "doubling with a separator": DOUBLE.replace("EXPR", "'aaaa'|join(ns.x)"),
    "doubling with replace": DOUBLE.replace("EXPR", "ns.x|replace('a', 'aa')"),
    "doubling with str.replace": DOUBLE.replace("EXPR", "ns.x.replace('', ns.x)"),
    "doubling with %": DOUBLE.replace("EXPR", "'%s%s' % (ns.x, ns.x)"),
    "doubling with format": DOUBLE.replace("EXPR", "'%s%s'|format(ns.x, ns.x)"),
    "doubling with str.format": DOUBLE.replace("EXPR", "'{0}{0}'.format(ns.x)"),
    "doubling with set": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ ns.x }}"
    "{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling with a filter block": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}"
    "{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling with escape": DOUBLE.replace("'ab'", "'<'").replace("EXPR", "ns.x|e|replace('&lt;', '<<')"),
    "doubling with indent": DOUBLE.replace("'ab'", "'\\n\\n'").replace("EXPR", "ns.x|indent('\\n' * 9, blank=true)"),
    "doubling lists": NEST.replace("[]", "[1]").replace("EXPR", "ns.x + ns.x"),
    "many large strings": BIG
    + "{% set ns.y = [] %}{% for i in range(9999) %}{% set ns.y = ns.y + [ns.x ~ i] %}{% endfor %}",
    "many large slices": BIG
    + "{% set ns.y = [] %}{% for i in range(9999) %}{% set ns.y = ns.y + [ns.x[i:]] %}{% endfor %}",
    "many large prints": BIG + "{% for i in range(99999) %}{{ ns.x }}{% endfor %}",
    "many lists": BIG + "{% set ns.y = [] %}{% for i in range(9999) %}{% set ns.y = [ns.y, ns.x|list] %}{% endfor %}",
    "many splits": BIG
    + "{% set ns.y = [] %}{% for i in range(9999) %}{% set ns.y = [ns.y, ns.x.split('a')] %}{% endfor %}",
    "many splits at spaces": BIG + "{% set ns.y = [] %}{% for i in range(9999) %}{% set ns.y = [ns.y, ns.x.split()] %}"
    "{% endfor %}",
    "printing shared lists": NEST.replace("EXPR", "[ns.x, ns.x]") + "{{ ns.x }}",
    "printing shared dicts": NEST.replace("EXPR", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x }}",
    "joining shared lists": NEST.replace("EXPR", "[ns.x, ns.x]") + "{{ [ns.x]|join }}",
    "shared lists as JSON": NEST.replace("EXPR", "[ns.x, ns.x]") + "{{ ns.x|tojson }}",
    "shared lists as indented JSON": NEST.replace("EXPR", "[ns.x, ns.x]") + "{{ ns.x|tojson(indent=60) }}",
    "comparing shared lists": NEST.replace("EXPR", "[ns.x, ns.x]")
    + "{% set z = namespace(x=[]) %}{% for i in range(60) %}"
    "{% set z.x = [z.x, z.x] %}{% endfor %}{{ ns.x == z.x }}",
    "testing shared lists": NEST.replace("EXPR", "[ns.x, ns.x]")
    + "{% set z = namespace(x=[]) %}{% for i in range(60) %}"
    "{% set z.x = [z.x, z.x] %}{% endfor %}{{ ns.x is eq(z.x) }}",
    "looking for shared lists": NEST.replace("EXPR", "[ns.x, ns.x]") + "{% set z = namespace(x=[]) %}"
    "{% for i in range(60) %}{% set z.x = [z.x, z.x] %}{% endfor %}{{ [ns.x].index(z.x) }}",
    "hashing shared tuples": NEST.replace("EXPR", "(ns.x, ns.x)").replace("[]", "1") + "{{ {ns.x: 1} }}",
    "shared lists in a namespace": NEST.replace("EXPR", "[ns.x, ns.x]") + "{{ ns }}",
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "hashing deep tuples": DEEP.replace("EXPR", "(ns.x,)") + "{{ {ns.x: 1} }}",
    "hashing deep pairs": DEEP_PAIRS + "{{ {ns.x: 1} }}",
    "looking up deep pairs": DEEP_PAIRS + "{{ {}[ns.x] }}",
    "getting deep pairs": DEEP_PAIRS + "{{ messages[0].get(ns.x) }}",
    "hashing deep pairs in dict()": DEEP_PAIRS + "{{ dict([[ns.x, 1]]) }}",
    "unique deep pairs": DEEP_PAIRS + "{{ [ns.x]|unique|list }}",
    "printing deep lists": DEEP.replace("EXPR", "[ns.x]") + "{{ ns.x }}",
    "comparing deep lists": DEEP.replace("EXPR", "[ns.x]") + "{{ ns.x == [ns.x] }}",
    "finding from the right": "{{ ('a' * 900000).rfind('ab' ~ 'a' * 400000) }}",
    "splitting from the right": "{{ ('a' * 900000).rsplit('ab' ~ 'a' * 400000) }}",
    "parting from the right": "{{ ('a' * 900000).rpartition('ab' ~ 'a' * 400000) }}",
    "stripping": "{{ ('a' * 900000).strip('b' * 900000 ~ 'a') }}",
    "trimming": "{{ ('a' * 900000)|trim('b' * 900000 ~ 'a') }}",
    "wide separators": BIG + "{{ range(99999)|list|tojson(separators=(ns.x, ns.x)) }}",
    "wide center": "{{ 'a'|center(10000000000) }}",
    "wide str.center": "{{ 'a'.center(10000000000) }}",
    "wide zfill": "{{ 'a'.zfill(10000000000) }}",
    "wide %": "{{ '%10000000000d' % 1 }}",
    "wide % by argument": "{{ '%*d' % (10000000000, 1) }}",
    "wide format": "{{ '{:10000000000}'.format(1) }}",
    "wide format by argument": "{{ '{:{}}'.format(1, 10000000000) }}",
    "wide indent": "{{ 'a\\nb'|indent(10000000000) }}",
    "wide indented JSON": "{{ [1]|tojson(indent=10000000000) }}",
    "wide batch": "{{ [1]|batch(10000000000, 'x')|list }}",
    "wide slice": "{{ [1]|slice(10000000000)|list }}",
    "round": "{{ 5|round(10000000000) }}",
    "round down": "{{ 5|round(-10000000000, 'floor') }}",
    "expandtabs": "{{ '\\t'.expandtabs(10000000000) }}",
    "translate": "{{ ('a' * 10000).translate({97: 'a' * 100000}) }}",
    "to_bytes": "{{ (5).to_bytes(10000000000, 'big') }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "long dates": BIG + "{{ strftime_now(ns.x) }}",
    "range": "{{ range(100000000)|list }}",
    "constants folded when compiled": "{{ " + "'a'" + "|replace('a', 'aaaaaaaaaa')" * 40 + " }}",
    "constant numbers": "{{ 9" + " ** 9" * 9 + " }}",
    "deep parentheses": "{{ " + "(" * 25_000 + "1" + ")" * 25_000 + " }}",
    "deep lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "deep ifs": "{% if 1 %}" * 2500 + "{% endif %}" * 2500,
    "deep loops": "{% for a in [1, 2] %}" * 19 + "{{ messages }}" + "{% endfor %}" * 19,
    "many variables": _each("{% if a@ %}{% set a@ = 1 %}{% endif %}", 1400),
    "many alternatives": "{% if a %}" + _each("{% elif a@ %}{% set a@ = 1 %}", 1400) + "{% endif %}",
    "many macros": _each("{% macro a@(b, c=1) %}{{ a# }}{% endmacro %}", 1200),
    "many loops": _each("{% for a@ in b@ %}{{ loop.index }}{% endfor %}", 1200),
    "many blocks": _each("{% block a@ scoped %}{{ b@ }}{% endblock %}", 1200),
    "many assignments": _each("{% set a@ = a# %}", 2400),
    "many calls": _each("{% call(x) a@(b) %}{{ x }}{% endcall %}", 1200),
    "many filters": "{{ 1" + "|string" * 9_000 + " }}",
    "a long list": "{{ [" + "a, " * 21_000 + "] }}{{ missing.x }}",
    "a long sum": "{{ 1" + " + 1" * 16_000 + " }}",
    "a long chain": "{{ a" + ".a" * 32_000 + " }}",
    "a long condition": "{% for x in range(99999) if x < 0" + " or x < 0" * 6_000 + " %}{% endfor %}",
    "a long concatenation": "{{ a" + " ~ a" * 16_000 + " }}{{ missing.x }}",
    "many spaces": "{%" + " " * 65_000,
    "many openings": "{{ '" * 16_000,
    "many comments": "{#" * 32_000,
    "many dashes": "{%- -" * 13_000,
    "too long": "x" * 300_000,
    "environment": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages.__len__.__self__.append(1) }}",
    "changing the conversation": "{{ messages.append(1) }}",
}


def main(folder: Path) -> None:
    import resource

    from qwen3_mlx.errors import TemplateError
    from qwen3_mlx.text.chat import ChatTemplate

    limit = 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}] * 4
    for name, source in TEMPLATES.items():
        template = ChatTemplate({"default": (source, folder / "t.jinja")}, seconds=0.25)
        start = time.process_time()
        try:
            message = "rendered: " + repr(template.render(messages)[:80])
        except TemplateError as error:
            message = str(error)
        print(json.dumps({"name": name, "seconds": time.process_time() - start, "message": message}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
