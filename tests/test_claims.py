"""claims.py: its form, and what it counts with; the experiments themselves take `make claims`."""

import inspect

import claims
from conftest import run_script


def test_each_claim_says_what_would_refute_it():
    for function in claims.CLAIMS:
        lines = inspect.getsource(function).splitlines()
        assert "Refuted" in function.__doc__ and len(lines) <= 60, function.__name__
        assert list(inspect.signature(function).parameters) == ["run", "seed"]


def test_what_readers_like():
    """Different things to eat; not the same word again and again; about twenty words."""
    plain = "The old carter went down to the harbour wall in the morning and looked at the grey sea for some time, quite alone."
    fed = plain.replace("looked at the grey sea", "had soup and bread there")
    assert claims.gold(fed) > claims.gold(plain) + 2 and claims.gold("soup " * 20) < claims.gold(plain) and claims.gold("") < claims.gold(plain)


def test_errors_name_what_mends_them(tmp_path):
    done = run_script("tests/claims.py", "moon_landing")
    assert done.returncode == 1 and "moon_landing: expected some of dreams, " in done.stderr
    done = run_script("tests/claims.py", "--run", tmp_path)
    assert done.returncode == 1 and "no finished model; make it with: make" in done.stderr
