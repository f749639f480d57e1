"""YAML that is read as kustomize, DVC and PyYAML all read it, or not at all."""

import pytest
import yaml

from checks.storage import plain_yaml

SEXAGESIMAL = "1" + ":0" * 200 + ".0"

# The text, what is said of it, and the line that is named, from 1; None where there is none.
REFUSED = {
    "a merge key": ("a: 1\n<<: {a: 2}\n", "<<: a merge key: write the keys out", 2),
    "a merge key in a flow": ("[{op: replace, path: /a, <<: {path: /b}}]", "<<: a merge key", 1),
    "a merge key after what it would replace": ("a:\n  b: 1\n  <<: {b: 2}\n", "<<: a merge key", 3),
    "a merge key of several": ("<<: [{a: 1}, {a: 2}]", "<<: a merge key", 1),
    "a merge key that is a value": ("a: <<", "could not determine a constructor", 1),
    "a merge key in quotes": ('"<<": {a: 1}', "<<: a merge key", 1),
    "a merge key by its tag": ("!!merge <<: {a: 1}", "a tag: write the value plainly", 1),
    "a merge key by no tag": ("! <<: {a: 1}", "a tag: write the value plainly", 1),
    "an alias": ("a: &x 1\nb: *x\n", "an alias: write the value out", 2),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "a is written twice", 3),
    "a float of base 60 without end": (f"a: 1\nb: {SEXAGESIMAL}\n", "int too large to convert to float", 2),
    "one that is a key": (f"{SEXAGESIMAL}: 1", "int too large to convert to float", 1),
    "a day that no calendar has": ("a: 1\nb: 2026-02-30\n", "day ", 2),
    "a time zone without end": ("a: 2026-01-01T00:00:00+99:99", "offset must be a timedelta", 1),
    "a number of no digits": ("a: 0b_", "invalid literal for int", 1),
    "a number without end": (f"a: {'9' * 5000}", "Exceeds the limit", 1),
    "a number without end in base 16": (f"a: 0x{'f' * 5000}", "Exceeds the limit", None),
    "nested too deeply": ("[" * 5000 + "]" * 5000, "", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_data_is_a_yaml_error_of_one_line_that_names_its_own(name: str) -> None:
    text, message, line = REFUSED[name]
    with pytest.raises(yaml.YAMLError) as refused:
        plain_yaml.load(text)
    assert str(refused.value).splitlines()[0].startswith(message)
    mark = getattr(refused.value, "problem_mark", None)
    assert line is None or (mark is not None and mark.line + 1 == line)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("- '<<'", ["<<"]),
        ("a: 1e-3", {"a": 0.001}),
        ("a: 1:30", {"a": 90}),
        ("a: =", {"a": "="}),
        ("a: {b: [1, 'x', null, true]}", {"a": {"b": [1, "x", None, True]}}),
        ("", None),
    ],
)
def test_plain_data_is_read(text: str, value: object) -> None:
    assert plain_yaml.load(text) == value
