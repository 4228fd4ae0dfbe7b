"""The quick parser and click, built from the same tables, must mean the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.argv import quick
from lamina.argv.declare import Argument, Option, Verb
from lamina.cli.commands import explain
from lamina.cli.entry import load
from lamina.cli.options import GLOBAL
from lamina.cli.usage import UsageError
from lamina.cli.verbs import VERBS

RUN = load("run").VERB


def read(*argv: str) -> dict[str, Any] | None:
    return quick.parse(RUN, argv)


def test_options_end_at_the_image() -> None:
    values = read("--rm", "host", "--rm", "-it")
    assert values is not None
    assert values["rm"] is True
    assert values["interactive"] is False
    assert (values["image"], values["words"]) == ("host", ("--rm", "-it"))


@pytest.mark.parametrize(
    "argv",
    [
        ["-it", "-e", "A=1", "-eB=2", "--env=C=3", "--env", "D=", "host"],
        ["-ite", "A=1", "-e", "B=2", "-e", "C=3", "-e", "D=", "--", "host"],
        ["-tieA=1", "--env=B=2", "--env=C=3", "--env=D=", "host"],
    ],
)
def test_every_way_to_write_an_option(argv: list[str]) -> None:
    values = read(*argv)
    assert values is not None
    assert values["env"] == ("A=1", "B=2", "C=3", "D=")
    assert values["interactive"] is values["tty"] is True


def test_a_flag_may_have_a_value() -> None:
    values = read("--rm=true", "-i=false", "--sig-proxy=0", "host", "--rm=false")
    assert values is not None
    assert (values["rm"], values["interactive"], values["sig_proxy"]) == (True, False, False)
    values = read("--rm", "--rm=false", "host")
    assert values is not None and not values["rm"] and values["sig_proxy"]
    with pytest.raises(UsageError, match="--rm takes no value"):
        explain(["run", "--rm=perhaps", "host"])
    with pytest.raises(UsageError, match="no such option --nosuch"):
        explain(["run", "--rm=false", "--sig-proxy=false", "-i=true", "--nosuch", "host"])


def test_the_last_of_a_repeated_option_counts() -> None:
    values = read("--name", "a", "--name=b", "host")
    assert values is not None
    assert values["name"] == "b"


def test_a_value_may_look_like_an_option() -> None:
    values = read("--name", "--rm", "host")
    assert values is not None
    assert values["name"] == "--rm"
    assert values["rm"] is False


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help", "host"],
        ["--nope", "host"],
        ["-iZ", "host"],
        ["--name"],
        ["-e"],
        ["--rm=yes", "host"],
        ["--pull", "sometimes", "host"],
    ],
)
def test_what_is_irregular_is_left_to_click(argv: list[str]) -> None:
    assert read(*argv) is None


TABLE = Verb(
    name="run",
    options=(
        Option("all", "a"),
        Option("quiet", "q"),
        Option("proxy", "p", default=True),
        Option("name", "n", "NAME"),
        Option("env", "e", "K=V", multiple=True),
        Option("number", metavar="N", convert=int, default=7),
        Option("kind", metavar="KIND", choices=("x", "y")),
    ),
)
SHAPES = [
    (),
    (Argument("first", "FIRST"),),
    (Argument("first", "FIRST"), Argument("more", "MORE", "*")),
    (Argument("more", "MORE", "+"),),
    (Argument("first", "FIRST", "?"),),
    (Argument("kind_of", "KIND", choices=("x", "y", "file")),),
]
PIECES = [
    *(
        "-a",
        "-q",
        "-aq",
        "-n",
        "-nfile",
        "-ane",
        "-e",
        "-eK=V",
        "-qe=V",
        "-Z",
        "-aZ",
        "-",
        "--",
        "---",
        "-=",
        "--=",
    ),
    *(
        "--all",
        "--quiet",
        "--name",
        "--name=",
        "--name=x",
        "--env",
        "--env=K=V=W",
        "--all=x",
        "--all=true",
        "--all=F",
        "--proxy",
        "--proxy=false",
        "-p=0",
        "-ap=1",
        "-a=",
        "-pn=false",
        "-np=0",
        "-n=3",
        "-e=K=V",
        "-ae==",
        "-e=",
        "-n=",
        "--nope",
        "--na",
        "-1",
    ),
    *(
        "--number",
        "--number=3",
        "--number=x",
        "--kind",
        "--kind=x",
        "--kind=z",
        "x",
        "y",
        "file",
        "",
        "a b",
        "=",
        "é",
    ),
    "\udcff",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(SHAPES), st.booleans())
@example(["--number", "3", "--", "-a"], SHAPES[3], True)
@example(["--number", "wrong", "--number=3"], SHAPES[0], True)
def test_quick_parser_and_click_agree(
    argv: list[str], arguments: tuple[Argument, ...], interspersed: bool
) -> None:
    from lamina.cli.commands import parse_verb

    verb = Verb(name="run", options=TABLE.options, arguments=arguments, interspersed=interspersed)
    quickly = quick.parse(verb, argv)
    try:
        slowly = parse_verb(verb, argv)
    except UsageError:
        slowly = None
    assert quickly == slowly


@given(
    st.lists(
        st.sampled_from(["--root", "--root=x", "--debug", "--", "ps", "-q", "version", "--nope", "overlay"])
    )
)
def test_options_before_the_verb_agree_too(argv: list[str]) -> None:
    read = quick.options(GLOBAL.options, argv, interspersed=False)
    if read is None or not read[1] or read[1][0] != "ps":
        return
    own = quick.parse(load("ps").VERB, read[1][1:])
    if own is not None:
        assert explain(argv) == ("ps", {**read[0], **own})


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_what_its_table_says(name: str) -> None:
    module = load(name)
    verb = module.VERB
    assert verb.name == name
    assert callable(module.do)
    keys = [option.key for option in (*verb.options, *GLOBAL.options)] + [a.name for a in verb.arguments]
    assert len(keys) == len(set(keys)), "two values would share a key"
    shorts = [option.short for option in verb.options if option.short]
    assert len(shorts) == len(set(shorts))
    for option in verb.options:
        assert option.help, f"--{option.name} explains itself"
        assert not option.help.endswith(".")
    for argument in verb.arguments[:-1]:
        assert argument.count == "1", "only the last argument may take a number of words"
