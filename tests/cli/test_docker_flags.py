"""Every flag of docker's: there, and of the same kind, or absent with a word why. tests/data/docker-flags.txt"""

from __future__ import annotations

import re

import pytest

from lamina.argv.declare import Option
from lamina.cli import absent
from lamina.cli.commands import explain
from lamina.cli.entry import load
from lamina.cli.usage import UsageError
from lamina.cli.verbs import VERBS
from support.docker_flags import FLAGS, Flag
from support.sources import REPOSITORY

# docker's second spelling of what has its short name
SPELLED = {("stop", "t"), ("restart", "t")}


def ours(flag: Flag) -> Option | None:
    return next((one for one in load(flag.verb).VERB.all_options if one.name == flag.name), None)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.word != "absent"], ids=str)
def test_a_flag_that_is_there_is_of_docker_s_kind(flag: Flag) -> None:
    assert flag.word == "same" or flag.word.startswith("differs: ")
    option = ours(flag)
    assert option is not None
    assert bool(option.metavar) == flag.takes
    if (flag.verb, flag.short) in SPELLED:
        assert any(one.short == flag.short for one in load(flag.verb).VERB.all_options)
    else:
        assert option.short == flag.short


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.word == "absent"], ids=str)
def test_a_flag_that_is_not_is_refused_with_the_reason(flag: Flag) -> None:
    assert ours(flag) is None
    for typed in (f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])):
        why = absent.option(load(flag.verb).VERB.name, typed)
        assert why is not None
        with pytest.raises(UsageError) as caught:
            explain([*flag.verb.split(), typed, *(["1"] if flag.takes else []), "x", "y"])
        assert caught.value.message == f"{load(flag.verb).VERB.name}: {typed} {why}"
        assert "did you mean" not in caught.value.remedy


def test_nothing_is_called_absent_that_is_there() -> None:
    for name in absent.VERBS:
        assert name not in VERBS
        if any(other.startswith(f"{name} ") for other in VERBS):
            continue
        with pytest.raises(UsageError, match=re.escape(absent.VERBS[name])):
            explain([name, "x"])
    known = {
        (load(flag.verb).VERB.name, typed) for flag in FLAGS for typed in (f"--{flag.name}", f"-{flag.short}")
    }
    for verb, options in absent.OPTIONS.items():
        for option in options:
            assert not verb or any(
                (one, option) in known for one in (absent.STARTING if verb == "*" else (verb,))
            )


@pytest.mark.parametrize("typed", ["-H", "--context", "--tlsverify", "-D", "-l"])
def test_what_stands_before_a_verb(typed: str) -> None:
    with pytest.raises(UsageError, match=re.escape(absent.OPTIONS[""][typed])):
        explain([typed, "x", "ps"])


def test_what_starts_containers_and_is_refused_is_told_in_the_documents() -> None:
    text = (
        (REPOSITORY / "docs/docker.md").read_text().partition("that are refused\n")[2].partition("\n## ")[0]
    )
    refused = {
        flag.name for flag in FLAGS if flag.verb in ("run", "create", "exec") and flag.word == "absent"
    }
    assert {name for name in refused if f"`--{name}`" not in text} == set()
    assert not any(flag.verb == "exec" and flag.word == "absent" for flag in FLAGS)
