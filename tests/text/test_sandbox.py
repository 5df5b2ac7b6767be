"""Templates as programs: honest ones behave as in Jinja, hostile ones are stopped, broken ones are named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from qwen3_mlx.errors import TemplateError
from qwen3_mlx.text.chat import ChatTemplate

from . import hostile
from .oracle import compile_plainly

ROOT = Path(__file__).resolve().parents[2]
USER = {"role": "user", "content": "Hello world"}
TALK = [USER, {"role": "assistant", "content": "hi\n there"}, {"role": "user", "content": "a,b,,c"}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é <b>", "parameters": {"z": [1, 2.5, None]}}}]

HONEST = [
    "{{ messages|length }}{{ messages|count }}{{ (messages|first).role }}"
    "{{ (messages|last).role }}{{ messages[-1].role }}",
    "{% for m in messages[::-1] %}{{ loop.index0 }}{{ loop.revindex }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle('a', 'b') }}"
    "{{ loop.changed(m.role) }}{{ loop.previtem is defined }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% continue %}x{% endfor %}",
    "{{ messages|map(attribute='role')|join(', ') }}{{ messages|map(attribute='content')|map('upper')|list }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{{ messages|rejectattr('role', 'eq', 'user')|list }}",
    "{{ [3, 1, 2]|sort }}{{ [3, 1, 2]|max }}{{ [3, 1, 2]|min }}{{ [3, 1, 2]|sum }}{{ [1, 1, 2]|unique|list }}",
    "{{ ['b', 'A']|sort(case_sensitive=true) }}{{ ['b', 'A']|sort(reverse=true) }}{{ [[1], [2]]|sum(start=[]) }}",
    "{{ messages|sum(attribute='n', start=1) if false else 1 }}{{ [{'n': 2}, {'n': 3}]|sum(attribute='n') }}",
    "{{ [1, 2, 3]|reverse|list }}{{ 'abc'|reverse }}{{ [1, 2, 3]|batch(2, 'x')|list }}{{ [1, 2, 3]|slice(2)|list }}",
    "{{ {'b': 1, 'a': 2}|dictsort }}{{ {'b': 1}|items|list }}{{ {'b': 1}.items()|list }}{{ {'b': 1}.get('c', 5) }}",
    "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ dict(a=1) }}{{ {'a': 1}.keys()|list }}",
    "{{ messages|groupby('role')|map('first')|list }}{{ [1, 2]|select('odd')|list }}{{ [1, 2]|reject('odd')|list }}",
    "{{ 'x'|default('y') }}{{ missing|default('y') }}{{ missing|d('z') }}{{ ''|default('e', true) }}",
    "{{ ' a '|trim }}|{{ 'xax'|trim('x') }}|{{ 'abc'|upper }}{{ 'ABC'|lower }}{{ 'a b'|title }}{{ 'a b'|capitalize }}",
    "{{ 'a\nb\n\nc'|indent }}{{ 'a\nb'|indent(2, first=true) }}"
    "{{ 'a\n\nb'|indent('>', blank=true) }}{{ 'a'|center(5) }}",
    "{{ 'a b a'|replace('a', 'c') }}{{ 'a b a'|replace('a', 'c', 1) }}"
    "{{ 'abc def'|truncate(6) }}{{ '<a>'|e }}{{ '<a>'|safe }}",
    "{{ '3'|int + 1 }}{{ 'x'|int(7) }}{{ '2.5'|float }}{{ 2.567|round(1) }}{{ 2.5|round(method='floor') }}{{ -3|abs }}",
    "{{ 5|string ~ 'x' }}{{ 1 ~ none ~ true ~ missing ~ [1] }}{{ '%s-%d'|format('a', 5) }}{{ '%(x)s'|format(x=1) }}",
    "{{ 'a' + 'b' }}{{ [1] + [2] }}{{ (1, 2) + (3,) }}{{ 'ab' * 3 }}"
    "{{ 2 * 'ab' }}{{ [1] * 2 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 9 }}",
    "{{ 7 / 2 }}{{ 1 - 2.5 }}{{ -5 }}{{ +5 }}{{ '%s is %.2f' % ('pi', 3.14159) }}{{ '{} {a:>4}'.format(1, a='x') }}",
    "{{ messages[0].content.split(' ') }}{{ 'a,b'.split(',', 1) }}{{ 'a b'.rsplit() }}{{ 'a\nb'.splitlines() }}",
    "{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('b', 'c')) }}"
    "{{ 'abc'.find('c') }}{{ 'abca'.count('a') }}{{ 'a1'.isdigit() }}",
    "{{ ' x '.strip() }}|{{ 'xax'.strip('x') }}|{{ ' x'.lstrip() }}|{{ 'x '.rstrip() }}|{{ 'aXa'.replace('X', 'b') }}",
    "{{ ','.join(['a', 'b']) }}{{ ','.join(messages|map(attribute='role')) }}"
    "{{ 'a'.upper() }}{{ 'a=b'.partition('=') }}",
    "{{ 'a'.center(4) }}{{ 'a'.ljust(3) }}{{ 'a'.rjust(3) }}"
    "{{ '7'.zfill(3) }}{{ 'aB'.swapcase() }}{{ 'pre-x'.removeprefix('pre-') }}",
    "{{ [1, 2].index(2) }}{{ [1, 1].count(1) }}{{ 2.0.is_integer() }}",
    "{{ 1 == 1.0 }}{{ 'a' in 'abc' }}{{ 'x' not in ['x'] }}"
    "{{ messages[0] == messages[0] }}{{ 1 < 2 < 3 }}{{ [1] < [2] }}",
    "{{ messages[0] in messages }}{{ missing == missing }}{{ none is none }}"
    "{{ 'a' is string }}{{ 1 is number }}{{ [] is iterable }}",
    "{{ {} is mapping }}{{ true is true }}{{ 'a' is in 'abc' }}"
    "{{ 4 is divisibleby(2) }}{{ missing is undefined }}{{ 3 is odd }}",
    "{{ 1 if messages else 2 }}{{ 'x' and 'y' }}{{ '' or 'z' }}"
    "{{ not 1 }}{{ messages[5] is defined }}{{ messages[0]['role'] }}",
    "{% set ns = namespace(x=1, y=[]) %}{% for i in range(5) %}{% set ns.x = ns.x + i %}"
    "{% set ns.y = ns.y + [i] %}{% endfor %}{{ ns.x }}{{ ns.y }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{{ varargs }}{{ kwargs }}"
    "{% endmacro %}{{ f(1) }}{{ f(1, 3, 4, c=5) }}{{ f(a='x') }}",
    "{% macro f() %}[{{ caller('y') }}]{% endmacro %}{% call(x) f() %}{{ x }}{% endcall %}",
    "{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% for x in [[1, [2, []]], [3, []]] recursive %}{{ x[0] }}({{ loop(x[1:]) if x[1] else '' }}){% endfor %}",
    "{% set x %}block {{ 1 }}{% endset %}{{ x }}{% filter upper %}"
    "abc{% endfilter %}{% with a = 5 %}{{ a }}{% endwith %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ (a, b) }}{{ {'k': (a, b)} }}"
    "{{ {(1, 2): 3}[(a, b)] }}{% raw %}{{ x }}{% endraw %}",
    "{% block a %}in a{% endblock %}{{ self.a() }}{{ 'abc'[1:] }}"
    "{{ 'abc'[::-1] }}{{ [1, 2, 3][:2] }}{{ range(3)|list }}",
    "{% set j = joiner(', ') %}{% for m in messages %}{{ j() }}{{ m.role }}"
    "{% endfor %}{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}",
    "{{ tools|tojson }}{{ tools|tojson(indent=2) }}"
    "{{ tools|tojson(ensure_ascii=true) }}{{ tools|tojson(separators=(',', ':')) }}",
    "{{ tools[0]|tojson(sort_keys=true) }}{{ 'é<>&\\''|tojson }}"
    "{{ none|tojson }}{{ [1.5, true]|tojson }}{{ tools|string }}",
    "  {%- if true %}\n  x\n  {% endif %}\n    {# comment #}\n  y {{- ' z' -}}"
    "  \n{% for i in [1] %}\n  {{ i }}\n{% endfor %}\n",
    "{% autoescape true %}{{ '<a>' }}{{ '<b>'|safe ~ '<c>' }}{% endautoescape %}{{ '<a>' }}",
    "{{ enable_thinking }}{{ add_generation_prompt }}{{ documents }}{{ foo.bar if foo is defined }}",
]


@pytest.mark.parametrize("source", HONEST)
def test_honest_templates_do_what_they_do_in_jinja(make_template, source: str) -> None:
    assert make_template(source).render(TALK, tools=TOOLS) == compile_plainly(source)(TALK, TOOLS, True)


def test_generation_blocks_are_their_body(make_template) -> None:
    assert make_template("a{% generation %}{{ 1 }}{% set x = 2 %}{% endgeneration %}b").render([USER]) == "a1b"


def test_the_date(make_template) -> None:
    assert make_template("{{ strftime_now('%Y-%m') }}").render([USER]) == datetime.now().strftime("%Y-%m")


def test_hostile_templates_are_stopped(tmp_path: Path) -> None:
    """All of them, in a process whose memory is limited to 2 GiB, with a quarter of a second each."""
    run = [sys.executable, "-m", hostile.__name__, str(tmp_path)]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-2000:]
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [outcome["name"] for outcome in outcomes] == list(hostile.TEMPLATES)
    assert not [o for o in outcomes if "memory" in o["message"]]
    rendered = {o["name"] for o in outcomes if o["message"].startswith("rendered")}
    # Long but finite ones may end within their time on a fast machine.
    assert not {name for name in rendered if not name.startswith(("many ", "a long "))}
    slow = [o for o in outcomes if o["seconds"] > 2]
    assert not slow
    stopped = [o["message"] for o in outcomes if o["name"] not in rendered]
    assert all("\n" not in message and str(tmp_path / "t.jinja") in message for message in stopped)


def test_a_template_is_stopped_in_any_thread(make_template) -> None:
    template = make_template(hostile.TEMPLATES["nested loops"])
    template._seconds = 0.1
    outcome: list[object] = []

    def work() -> None:
        start = time.thread_time()
        try:
            template.render([USER])
        except TemplateError as error:
            outcome.extend([str(error), time.thread_time() - start])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "ran longer than 0.1 seconds" in str(outcome[0])
    assert outcome[1] < 1  # type: ignore[operator]


def test_a_stopped_template_can_be_rendered_again(make_template) -> None:
    template = make_template("{% if messages|length > 1 %}{{ 'a' * 99999999999 }}{% endif %}fine")
    with pytest.raises(TemplateError, match="was stopped"):
        template.render(TALK)
    assert template.render([USER]) == "fine"


def test_long_conversations_are_not_taken_for_an_attack(hybrid: ChatTemplate) -> None:
    """Ten megabytes in two thousand messages."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 1000} for i in range(2000)]
    assert len(hybrid.render(messages)) > 10_000_000


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("a\n{% if %}", "line 2: the chat template is broken"),
        ("a\n\n{{ 'x' | no_such_filter }}", "line 3: the chat template is broken: No filter named 'no_such_filter'"),
        ("{% for x in y %}", "is broken: Unexpected end of template"),
        ("a\n{{ raise_exception('No\\nway') }}", "line 2: the chat template refused the conversation: No way"),
        ("\n\n{{ missing.x }}", "line 3: the chat template failed: 'missing' is undefined"),
        ("\n{{ 1 + 'a' }}", "line 2: the chat template failed: unsupported operand"),
        ("\n{{ 'a' * 9999999999 }}", "line 2: the chat template was stopped"),
        ("{{ 'a'.translate({}) }}", "str.translate() is not offered"),
        ("{% include 'x' %}", "failed: no loader"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__ }}{{ ''.__class__.mro() }}", "unsafe"),
        ("{{ messages[0].update({}) }}", "unsafe"),
        ("{{ 5() }}", "failed"),
    ],
)
def test_broken_templates_are_named(make_template, tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        make_template(source).render([USER])
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "chat_template.jinja"))
    assert "\n" not in str(caught.value)


def test_jinja_is_imported_only_to_render(folder: Path) -> None:
    code = (
        "import sys\n"
        "from qwen3_mlx.text.chat import ChatTemplate\n"
        "from qwen3_mlx.text.defaults import Defaults\n"
        "import qwen3_mlx.text.tokenizer, qwen3_mlx.text.detokenizer\n"
        f"ChatTemplate.from_folder({str(folder)!r}); Defaults.from_folder({str(folder)!r})\n"
        "print([name for name in ('jinja2', 'tokenizers', 'mlx', 'numpy', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
