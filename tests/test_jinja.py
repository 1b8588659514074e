"""chat/jinja.py: templates of strangers, rendered in a process of their own."""

import os
import signal
import sys
import threading

import pytest

from chat import jinja
from conftest import ROOT


def failure(template, **variables):
    """The one line that is said of a template that fails."""
    with pytest.raises(jinja.Failed) as error:
        jinja.run_template(template, variables)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_jinja2_the_message_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    jinja.environment.cache_clear()
    answer = jinja.answer_to({"template": "x", "variables": {}, "seconds": 9})
    assert answer == {"kind": "ModuleNotFoundError",
                      "error": "is a program in Jinja, and jinja2 is not here"}
    monkeypatch.setattr(jinja, "asked", lambda request: jinja.json.dumps(answer))
    assert failure("x") == ("is a program in Jinja, and jinja2 is not here; "
                            'install it with: pip install "jinja2>=3.1.6"')


def test_a_jinja2_with_known_holes_is_refused(tmp_path):
    package = tmp_path / "jinja2"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '3.1.5'\n")
    for name in ("ext", "sandbox"):
        (package / f"{name}.py").write_text("")
    code = "from chat import jinja; jinja.installed()"
    done = jinja.subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                                env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert b"ModuleNotFoundError: needs a newer jinja2 than 3.1.5" in done.stderr


def test_a_process_that_ends_is_one_line_and_the_next_one_works(monkeypatch):
    """The template is not to blame for the signal here, but nobody can know."""
    monkeypatch.setattr(jinja, "SECONDS", 7)
    process = jinja.renderer(os.getpid())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert failure("x") == "takes more than 7 s, or has ended its process"
    assert jinja.renderer(os.getpid()).pid != process.pid


def test_the_process_needs_no_package_of_ours():
    """Importing numpy for it would take longer than all templates."""
    code = "import sys; from chat import jinja; print('numpy' in sys.modules)"
    done = jinja.subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.stdout == b"False\n"


# ------------------------------------------------------------------------------------ with jinja2

@pytest.fixture
def installed():
    return pytest.importorskip("jinja2", "3.1.6", reason="jinja2 is not here")


@pytest.mark.usefixtures("installed")
def test_what_transformers_gives_a_template():
    def render(template, **variables):
        return jinja.run_template(template, variables)

    # trim_blocks and lstrip_blocks
    assert render("{% for x in xs %}\n  {{ x }}\n  {% endfor %}\nend", xs=[1, 2]) == (
        "  1\n  2\nend")
    assert render("{{ x | tojson }}", x={"<\u00e9>": "'"}) == '{"<\u00e9>": "\'"}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    assert render("{{ strftime_now('%d') | length }}{{ dict(a=1) }}") == "2{'a': 1}"
    assert render("{% set n = namespace(self=1) %}{% for x in xs %}{% set n.self = n.self + x %}"
                  "{% if x > 1 %}{% break %}{% endif %}{% endfor %}{{ n.self }}", xs=[1, 2, 3]
                  ) == "4"
    assert render("{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}"
                  ) == "21"
    assert render("{{ x }}", x="\ud800\u2028\n") == "\ud800\u2028\n"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("template, said", [
    ("{{ raise_exception('roles must\nalternate') }}",
     "refuses the conversation: roles must alternate"),
    ("{{ 1 }}\n{% for %}", "does not parse: line 2: Expected an expression"),
    ("{{ 1 | nothing }}", "does not parse: line 1: No filter named 'nothing'."),
    ("{{ x.y }}", "fails: UndefinedError: 'x' is undefined"),
    ("{{ 1 / 0 }}", "fails: ZeroDivisionError: division by zero"),
    ("{{ ''.__class__.__mro__ }}",
     "reaches for what it must not: access to attribute '__class__' of 'str' object is unsafe."),
    ("{{ messages.append(1) }}", "reaches for what it must not: "),
    ("{% set n = namespace(__class__=1) %}",
     "reaches for what it must not: a namespace with the name __class__"),
    ("{% set n = namespace() %}{% set n._x = 1 %}",
     "reaches for what it must not: a namespace with the name _x"),
    ("{% include '/etc/passwd' %}", "fails: TypeError: no loader"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: RecursionError"),
    ("{{ 'a' * 10 ** 10 }}", "takes more than 1024 MiB of memory"),
    ("{{ 'a' * 20000000 }}", "takes more than 1024 MiB of memory"),
], ids=range(13))
def test_a_template_that_fails_is_one_line(template, said):
    assert failure(template, messages=[]).startswith(said)
    assert jinja.run_template("{{ 1 }}", {}) == "1"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("template", [
    "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9 ** (9 ** 9) % 2 }}",
], ids=["loops", "one long operation"])
def test_a_template_that_takes_for_ever_is_ended(template, monkeypatch):
    jinja.run_template("{{ 1 }}", {})
    monkeypatch.setattr(jinja, "SECONDS", 0.2)
    assert failure(template) == "takes more than 0.2 s, or has ended its process"
    monkeypatch.undo()
    assert jinja.run_template("{{ 1 }}", {}) == "1"


@pytest.mark.usefixtures("installed")
def test_threads_take_turns():
    found = {}

    def work(i):
        found[i] = [jinja.run_template("{{ x }}", {"x": f"{i}-{j}"}) for j in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [f"{i}-{j}" for j in range(50)] for i in range(4)}
