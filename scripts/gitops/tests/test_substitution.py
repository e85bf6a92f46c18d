"""Facts get into a text, and YAML is read, as Flux's own code does it."""

import pytest
import yaml

from scripts.gitops.substitution import SubstitutionError, apply, read, substitute

FACTS = {"a": "A", "empty": "", "braces": "${a}", "dollars": "$$"}


# What Flux's envsubst 1.7.1 makes of them, too.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("no variable: $a $(a) {a} $", "no variable: $a $(a) {a} $"),
        ("${a}", "A"),
        ("x${a}y${a}", "xAyA"),
        ("${empty}", ""),
        ("${a:=other}", "A"),
        ("${empty:=other}", "other"),
        ("${empty=other}", "other"),
        ("${none:-other}", "other"),
        ("${none:=}", ""),
        ("${none:=a b: {c}", "a b: {c"),
        ("${none:=${a}}", "A"),
        ("${none:=x${other:-y}z}", "xyz"),
        ("${none:=$$}", "$$"),
        ("$${a}", "${a}"),
        ("${braces} ${dollars}", "${a} $$"),
        ("ä${a}\nß", "äA\nß"),
    ],
)
def test_a_variable_gets_its_value(text: str, expected: str) -> None:
    assert substitute(text, FACTS) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${none}", "${none} is no fact of this cluster and has no default"),
        ("${none:=${nobody}}", "${nobody} is no fact"),
        ("${}", "cannot read '${}'"),
        ("${ a }", "cannot read '${ a }'"),
        ("${a", "cannot read '${a'"),
        ("${a:=x", "no } closes 'x'"),
        ("${a^^}", "write ${name} or ${name:=default}"),
        ("${a:0:1}", "write ${name} or ${name:=default}"),
        ("${a/x/y}", "write ${name} or ${name:=default}"),
        ("${#a}", "write ${name} or ${name:=default}"),
        ("${1}", "cannot read '${1}'"),
        ("$$(a)", "Flux makes one $ of the two in '$$(a)'"),
    ],
)
def test_what_flux_refuses_or_we_do_not_need_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SubstitutionError) as error:
        substitute(text, FACTS)
    assert reason in str(error.value)


def test_a_fact_with_a_name_that_flux_refuses_is_refused() -> None:
    with pytest.raises(SubstitutionError, match="'page-host' cannot be a variable"):
        substitute("", {"page-host": "x"})


def test_the_names_that_are_used_are_noted() -> None:
    used: set[str] = set()
    substitute("${a} ${none:=${empty}}", FACTS, used)
    assert used == {"a", "none", "empty"}


# What sigs.k8s.io/yaml 1.6.0 makes of them, too.
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("y", True),
        ("n", False),
        ("yes", True),
        ("Off", False),
        ("tRue", "tRue"),
        ("~", None),
        ("1", 1),
        ("-1", -1),
        ("007", 7),
        ("08", 8),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1.0", 1),
        ("1e3", 1000),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("10.0.0.0/20", "10.0.0.0/20"),
        ("1.2.3", "1.2.3"),
        ("5Gi", "5Gi"),
        ("=", "="),
        ("'1'", "1"),
    ],
)
def test_a_plain_word_is_what_go_takes_it_for(word: str, expected: object) -> None:
    (found,) = read(f"key: {word}")
    assert (found["key"], type(found["key"])) == (expected, type(expected))


def test_a_broken_text_is_told() -> None:
    with pytest.raises(SubstitutionError, match="is no YAML"):
        read("key: [")


OBJECT = {"kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"key": "${a}"}}


def printed(*documents: object) -> str:
    return "---\n".join(yaml.safe_dump(document) for document in documents)


@pytest.mark.parametrize("kind", ["labels", "annotations"])
def test_an_object_that_switches_it_off_is_left_alone(kind: str) -> None:
    switch = {"kustomize.toolkit.fluxcd.io/substitute": "disabled"}
    closed = {**OBJECT, "metadata": {"name": "two", kind: switch}}
    first, second = read(apply(printed(OBJECT, closed), FACTS))
    assert first["data"] == {"key": "A"}
    assert second == closed


def test_without_facts_nothing_is_changed() -> None:
    assert read(apply(printed(OBJECT), {})) == [OBJECT]


def test_the_object_with_the_fault_is_told() -> None:
    with pytest.raises(SubstitutionError, match=r"^ConfigMap/one: \$\{a\} is no fact") as error:
        apply(printed(OBJECT), {"b": "B"})
    assert error.value.document == OBJECT


def test_a_value_becomes_part_of_the_yaml() -> None:
    assert read(apply("data:\n  key: ${n}\nkind: x\n", {"n": "12"}))[0]["data"] == {"key": 12}
    assert read(apply('data:\n  key: "${n}"\nkind: x\n', {"n": "12"}))[0]["data"] == {"key": "12"}
