"""No template gets out of its process, and none keeps it busy: attacks and bombs made by combining families of them."""

from __future__ import annotations

import itertools
import os
import resource
import threading
from pathlib import Path

import pytest

from myna.errors import UserError
from myna.tokenizer.render import MEMORY
from myna.tokenizer.sandbox import Sandbox

HELLO = [{"role": "user", "content": "hi"}]
SECRET = "a-secret-of-the-parent-7361"

# where an attack begins, how it climbs, and what it would do at the top
ROOTS = (
    "''", "[]", "{}", "messages", "messages[0]", "messages[0].content", "range", "dict", "namespace()", "namespace", "cycler('a')",
    "cycler", "joiner(',')", "joiner", "raise_exception", "strftime_now", "self", "lipsum", "loop", "caller", "none", "1.5", "''.format",
    "(1).to_bytes",
)
CLIMBS = (
    ".__class__.__mro__[1].__subclasses__()", "['__class__']['__base__']['__subclasses__']()", "|attr('__class__')|attr('__mro__')|last",
    "|attr('\\x5f\\x5fclass\\x5f\\x5f')|attr('__subclasses__')()", ".__init__.__globals__['os']", ".__globals__['__builtins__']['open']",
    "|map(attribute='__class__')|list", ".__func__.__code__.co_consts", ".__self__.__dict__", ".__call__.__globals__.os",
    "._TemplateReference__context.environment", ".gi_frame.f_back.f_globals",
)
DEEDS = (
    ".popen('touch CANARY').read()", "('CANARY', 'w').write('x')", "|list|string", ".environ", "[132]",
)
FORMATS = (
    "{{ '{0.__class__.__mro__}'.format(messages) }}", "{{ '{x.__init__.__globals__}'.format_map({'x': cycler}) }}",
    "{{ '%s'|format(messages.__class__) }}", "{{ ('{0.__class__}' ~ '')|attr('format')(range) }}",
    "{{ ''.join.__self__.format.__class__ }}", "{% set f = '{0.__globals__}'.format %}{{ f(strftime_now) }}",
    "{{ ['{0.__class__}']|map('format', 1)|list }}", "{{ 'a'|attr('format')|attr('__self__')|attr('__class__') }}",
    "{{ '{0.__class__.__base__}'|replace('a', 'a')|attr('format')(1) }}", "{% import 'os' as os %}{{ os.environ }}",
    "{% include '/etc/passwd' %}", "{% extends '/etc/passwd' %}", "{% from 'os' import environ %}{{ environ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = dict %}{{ ns.__class__ }}", "{{ namespace(__class__=1) }}",
    "{{ namespace({'__init__': 1}) }}", "{{ messages.append(1) }}", "{{ messages[0].update({'content': 'x'}) }}", "{{ messages.clear() }}",
    "{{ dict.fromkeys('ab').__class__.mro() }}", "{{ self._TemplateReference__context.environment.globals }}",
    "{{ self.__init__.__globals__ }}", "{{ messages|groupby('__class__')|list }}", "{{ messages|sum(attribute='__class__', start='') }}",
    "{{ messages|sort(attribute='__class__')|first|attr('__class__') }}",
    "{{ messages|selectattr('__class__')|map(attribute='__class__.__mro__')|list }}",
    "{{ [raise_exception]|map(attribute='__globals__.os')|list }}",
    "{% macro m() %}{{ caller.__class__.__mro__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{{ m.__globals__ }}{% macro m() %}{% endmacro %}", "{% for x in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ cycler('a').next.__func__.__globals__ }}", "{{ joiner.__init__.__globals__.os.popen('id').read() }}", "{{ tojson.__globals__ }}",
    "{{ messages|tojson.__globals__ }}", "{{ ''|xmlattr.__globals__ }}", "{% set x = messages|attr('__len__') %}{{ x.__self__.__class__ }}",
    "{{ {}|tojson(separators=messages.__class__) }}", "{{ strftime_now('%n').__class__.__mro__ }}",
    "{{ raise_exception(messages.__class__.__mro__) }}", "{{ range.__class__.__base__ }}", "{{ ().__getattribute__('__class__') }}",
    "{{ 'x'.encode().__class__.__subclasses__() }}", "{{ 0 .__class__.__base__ }}", "{% set y = [].append.__self__.__class__ %}{{ y }}",
    "{{ undefined_name.__class__.__init__.__globals__ }}", "{{ undefined_name.x.y }}",
    "{% set a = '__cla' ~ 'ss__' %}{{ messages[a] }}{{ ''[a] }}{{ ''|attr(a) }}", "{% debug %}", "{% do messages.pop() %}",
    "{% raw %}{{ x }}",
)
LONG = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"
BOMBS = (
    "{{ 'x'.center(10**N) }}", "{{ 'x' * 10**N }}", "{{ ('x'|center(10**N))|length }}", "{{ '{:>1BIG}'.format(1) }}", "{{ '%1BIGd' % 1 }}",
    "{{ [0] * 10**N }}", "{{ 'x'.ljust(10**N)|upper }}", "{{ 'x'.zfill(10**N) }}", "{{ 'a\tb'.expandtabs(10**N) }}",
    "{{ ('ab' * 10**6).replace('a', 'x' * 10**6) }}", "{{ messages|tojson(indent=10**N) }}", "{{ 'x'|indent(10**N) }}",
    "{{ (1).to_bytes(10**N, 'big') }}", "{{ range(10**N)|list|length }}", "{{ (10 ** 10**N)|string|length }}", "{{ (2 ** (2 ** 40))|int }}",
    "{{ 7 ** 10 ** N % 3 }}", "{{ (1).__lshift__(10**N) }}",
    "{% set ns = namespace(x='xx') %}{% for i in range(1BIG0) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x, 'N': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
    "{% macro f(x) %}{{ f(x + 1) }}{{ f(x + N) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(9N) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}N",
    "{% for m in messages * 900 recursive %}{{ loop(messages * N0) }}{% endfor %}", LONG.replace("BODY", "N"), LONG.replace("BODY", ""),
    LONG.replace("BODY", "{% set x = 'N' * 9999 %}"), LONG.replace("BODY", "{{ messages|tojson }}N"),
    "{% set c = cycler('x' * N000000, 'y') %}" + LONG.replace("BODY", "{{ c.next() }}"),
    "{% set j = joiner('x' * N0000) %}" + LONG.replace("BODY", "{{ j() }}"),
    "{{ ('a' * 99N999)|wordwrap(1)|wordwrap(1)|wordwrap(2)|length }}", "{{ (range(99999)|list * N0)|sort|unique|list|length }}",
    "{{ ('<a' * N00000)|striptags|urlize|length }}", "{{ ('9' * N00000)|int % 7 }}", "{{ ('x ' * N000000)|title|wordcount }}",
    "{{ range(99999)|map('string')|join(',' * N00) }}", "{{ messages|batch(10**N, 'x')|list|length }}",
    "{{ messages|slice(10**N)|list|length }}", "{{ ((((((((((N" * 2000, "{% if N %}" * 4000, "{{ N" + " + N" * 40000 + " }}",
    "{{ " + "not " * 30000 + "N }}", "{{ [" * 3000 + "N", "x" * 1000 + "{{ 'N' }}" * 20000,
    "{% for a in range(99999) %}{{ a ~ 'N' * 99 }}{% endfor %}",
)


def attacks() -> list[str]:
    """170 ways to reach Python: every root, climb and deed with others, and tricks of their own."""
    climbs, deeds = itertools.cycle(CLIMBS), itertools.cycle(DEEDS)
    walks = ["{{ " + root + next(climbs) + next(deeds) + " }}" for _ in range(6) for root in ROOTS]
    return list(dict.fromkeys([*FORMATS, *walks]))[:170]


def bombs() -> list[str]:
    """Templates that want too much time or memory, 130 in all, each with several sizes."""
    made = [bomb.replace("N", str(size)).replace("BIG", str(size) * 9) for size in (8, 9, 7, 6) for bomb in BOMBS]
    return list(dict.fromkeys(made))[:130]


def refused(template: str, canary: Path) -> str:
    """Render one and return the refusal, or the text where it did no harm."""
    sandbox = Sandbox(template.replace("CANARY", str(canary)), {}, "chat_template.jinja")
    try:
        said = sandbox.render(HELLO)
    except UserError as error:
        said = str(error)
    assert not canary.exists()
    assert SECRET not in said
    assert "object at 0x" not in said.replace("Undefined object", "")
    assert "<class '" not in said or "unsafe" in said, said
    assert "root:" not in said
    if sandbox._process is not None:
        assert limit_of(sandbox._process.pid) <= (64 << 20) + MEMORY
    return said


def limit_of(pid: int) -> int:
    """The address space a process may have, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max address space"))
    return int(line.split()[3])


def test_there_are_300_and_they_differ() -> None:
    assert len({*attacks(), *bombs()}) == 300


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYNA_TEST_SECRET", SECRET)


@pytest.mark.parametrize("template", [*attacks()[::4], *bombs()[::7]])
def test_no_template_escapes_or_stays(template: str, tmp_path: Path) -> None:
    refused(template, tmp_path / "canary")


@pytest.mark.slow
@pytest.mark.parametrize("template", [*attacks(), *bombs()])
def test_none_of_300_templates_escapes_or_stays(template: str, tmp_path: Path) -> None:
    refused(template, tmp_path / "canary")


def test_the_process_can_open_nothing_and_a_bomb_ends_it() -> None:
    sandbox = Sandbox("{% if messages[0].content == 'bomb' %}" + LONG.replace("BODY", "") + "{% endif %}ok", {}, "t.jinja")
    assert sandbox.render(HELLO) == "ok"
    first = sandbox._process
    assert first is not None
    limits = Path(f"/proc/{first.pid}/limits").read_text()
    assert any(line.split()[:4] == ["Max", "open", "files", "0"] for line in limits.splitlines())
    assert Path(f"/proc/{first.pid}/environ").read_bytes().count(SECRET.encode()) == 0
    with pytest.raises(UserError, match=r"t\.jinja\) was stopped: more than "):
        sandbox.render([{"role": "user", "content": "bomb"}])
    assert first.poll() is not None
    assert sandbox.render(HELLO) == "ok"


def test_too_much_memory_is_said() -> None:
    with pytest.raises(UserError, match="was stopped: more than 64 MiB of memory"):
        Sandbox("{{ 'x'.center(10**9) }}", {}, "t.jinja").render(HELLO)


def test_too_much_text_is_said() -> None:
    with pytest.raises(UserError, match="more than 2,097,152 characters"):
        Sandbox("{% for i in range(50000) %}{{ 'x' * 100 }}{% endfor %}", {}, "t.jinja").render(HELLO)
    with pytest.raises(UserError, match="a chat template of at most"):
        Sandbox("x" * (1 << 21), {}, "t.jinja")


def test_an_answer_that_was_not_waited_for_is_not_given_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox("{{ messages[0].content }}", {}, "t.jinja")
    assert sandbox.render(HELLO) == "hi"

    def interrupt(*given: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sandbox.render([{"role": "user", "content": "lost"}])
    assert sandbox.render([{"role": "user", "content": "next"}]) == "next"


def test_many_long_conversations_are_rendered_in_groups() -> None:
    sandbox = Sandbox("{% for m in messages %}{{ m.content }}{% endfor %}", {}, "t.jinja")
    talks = [([{"role": "user", "content": str(number % 10) * 100_000}] * (1 + number % 3), False) for number in range(60)]
    assert sandbox.render_each(talks) == ["".join(str(message["content"]) for message in messages) for messages, _ in talks]


def test_many_threads_may_ask_at_once() -> None:
    sandbox = Sandbox("{{ messages[0].content }}", {}, "t.jinja")
    wrong = []

    def ask(number: int) -> None:
        for turn in range(50):
            said = sandbox.render([{"role": "user", "content": f"{number} {turn}"}])
            wrong.extend([said] * (said != f"{number} {turn}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_process_is_left_behind() -> None:
    sandbox = Sandbox("x", {}, "t.jinja")
    sandbox.render(HELLO)
    process = sandbox._process
    assert process is not None
    del sandbox
    assert process.poll() is not None
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0  # the limits are the child's
