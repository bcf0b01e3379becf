"""YAML without traps. The oracle for scalars is the table of YAML 1.2 core, written out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.parsing import parse, parse_value


def value(text: str):
    result, _, faults = parse_value(text, "here")
    assert not faults, faults
    return result


def refusal(raw: bytes | str) -> RecipeError:
    raw = raw.encode() if isinstance(raw, str) else raw
    with pytest.raises(RecipeError) as caught:
        parse(raw, "r.yaml")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    return caught.value


def faults(text: str) -> list[str]:
    return [fault.message for fault in parse(text.encode(), "r.yaml").faults]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E-4", 0.0001),
        ("5e-5", 5e-5),
        ("1e4", 10000.0),
        ("1e+4", 10000.0),
        ("2e1", 20.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("0o17", 15),
        ("0x1F", 31),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("False", False),
    ],
)
def test_a_scalar_of_yaml_1_2_is_a_value(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["no", "off", "yes", "on", "y", "N", "No", "YES"])
def test_norway_is_text(text):
    assert value(text) == text


@pytest.mark.parametrize(
    "text",
    ["12:30:45", "60:00", "2024-01-01", "None", "nan", "1_000", "0,001", "'1e-3'", "!!str 5"],
)
def test_what_yaml_1_1_would_convert_stays_text(text):
    found = value(text)
    assert found == text.strip("'").removeprefix("!!str ")
    assert type(found) is str


def test_special_floats():
    assert value(".inf") == math.inf
    assert value("-.Inf") == -math.inf
    assert math.isnan(value(".nan"))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_exactly(number):
    assert float(value(repr(number))) == number


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_every_integer_reads_back_exactly(number):
    assert value(str(number)) == number


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_parses_or_is_refused_in_one_line(text):
    try:
        parse(text.encode(), "r.yaml")
    except RecipeError as error:
        assert error.message.startswith("r.yaml")
        assert "\n" not in error.message


@pytest.mark.parametrize(("text", "hint"), [("017", "15"), ("-012", "10"), ("08", "8")])
def test_a_leading_zero_is_refused_with_both_readings(text, hint):
    document = parse(f"steps: {text}".encode(), "r.yaml")
    (fault,) = document.faults
    assert fault.message == (
        f"r.yaml:1: steps: {text} starts with 0: octal in YAML 1.1, decimal in YAML 1.2"
    )
    assert fault.hint.startswith(f"write {int(text)}")
    assert ("0o" in fault.hint) == ("8" not in text)
    if "0o" in fault.hint:
        assert value(f"0o{text.lstrip('-0')}") == int(hint)


def test_a_key_given_twice_names_both_lines():
    text = "model: a:b\noptimizer:\n  name: sgd\n  lr: 0.1\n  lr: 5.0\n"
    assert faults(text) == ["r.yaml:5: optimizer.lr: key given twice (lines 4 and 5)"]


def test_a_tab_is_explained():
    error = refusal("optimizer:\n  name: sgd\n\tlr: 0.1\n")
    assert error.message == "r.yaml:3: a tab indents this line; YAML allows only spaces"
    assert error.hint == "replace the tab in line 3 by spaces"


def test_a_python_tag_is_named_and_does_not_run(tmp_path):
    victim = tmp_path / "PWNED.txt"
    text = f'a: 1\nhook: !!python/object/apply:os.system ["touch {victim}"]\n'
    message = "r.yaml:2: hook: tag !!python/object/apply:os.system is refused"
    assert faults(text) == [message]
    assert not victim.exists()


@pytest.mark.parametrize(
    ("tagged", "named"),
    [("!custom 1", "!custom"), ("!!binary aGk=", "!!binary"), ("!!set {a}", "!!set")],
)
def test_other_tags_are_refused_too(tagged, named):
    assert faults(f"a: {tagged}") == [f"r.yaml:1: a: tag {named} is refused"]


def test_a_core_tag_that_does_not_fit():
    assert faults("a: !!int abc") == ["r.yaml:1: a: 'abc' is no !!int"]
    assert value("!!float 3") == 3.0
    assert type(value("!!float 3")) is float


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "~"])
def test_an_empty_file_is_called_empty(text):
    error = refusal(text)
    assert error.message == "r.yaml: the recipe is empty"
    assert "model, data, optimizer and steps" in error.hint


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "a list"), ("hello\n", "plain text")])
def test_the_top_must_be_a_mapping(text, kind):
    error = refusal(text)
    assert error.message == f"r.yaml:1: a recipe is a mapping of keys to values, this is {kind}"


def test_a_second_document_is_refused_with_its_line():
    error = refusal("steps: 1\n---\nsteps: 2\n")
    assert error.message == "r.yaml:2: a second document starts here"
    assert "---" in error.hint


def test_latin_1_is_named_with_byte_and_line():
    error = refusal("steps: 1\nname: caf\xe9\n".encode("latin-1"))
    assert error.message == "r.yaml:2: byte 0xe9 (in Latin-1: 'é') is not UTF-8"
    assert "iconv" in error.hint


def test_utf_16_is_named():
    assert refusal("steps: 1".encode("utf-16")).message == "r.yaml: is UTF-16, not UTF-8"


def test_a_byte_order_mark_is_welcome():
    document = parse(b"\xef\xbb\xbfsteps: 3\n", "r.yaml")
    assert document.data == {"steps": 3}
    assert not document.faults


def test_a_control_character_is_named():
    assert (
        refusal("a: 1\nb: x\x07y\n").message == "r.yaml:2: character U+0007 is not allowed in YAML"
    )


def test_a_recipe_is_no_data_file():
    assert refusal(b"a" * 1_000_001).message == "r.yaml: 1000001 bytes are no recipe"


def test_depth_is_limited():
    assert "nested deeper than 64" in refusal("a: " + "[" * 70 + "]" * 70).message
    assert "nested" in refusal("a: " + "[" * 5000).message


def test_an_alias_bomb_stops_early():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    assert "20000 values once aliases are expanded" in refusal("\n".join(lines)).message


def test_an_alias_of_itself_stops():
    assert "nested deeper" in refusal("a: &x [*x]").message


def test_anchors_are_fine():
    document = parse(b"a: &n 5\nb: *n\n", "r.yaml")
    assert document.data == {"a": 5, "b": 5}


def test_merge_keys_are_refused():
    found = faults("a: &x {b: 1}\nc:\n  <<: *x\n")
    assert found == ["r.yaml:3: c.<<: merge keys are not part of YAML 1.2"]


def test_a_mapping_as_key_is_refused():
    assert faults("{a: 1}: 2") == ["r.yaml:1: a key must be a single word"]


@pytest.mark.parametrize(
    ("text", "line"), [("a: [1, 2\nb: 3\n", 2), ("a: 1\nb: c: d\n", 2), ("a: *missing\n", 1)]
)
def test_broken_yaml_has_its_line_and_a_hint(text, line):
    error = refusal(text)
    assert error.message.startswith(f"r.yaml:{line}: not YAML: ")
    assert error.hint
