"""The language of --format, against what Go's text/template and docker's functions make of the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.cli.template import Template, check
from lamina.errors import InvalidInput

RECORD: dict[str, Any] = {
    "Name": "web",
    "Size": 1500,
    "Ratio": 0.25,
    "Up": True,
    "None": None,
    "Empty": [],
    "List": ["b", "a", "c"],
    "Map": {"k2": "v2", "k1": 1},
    "State": {"Status": "running", "Health": {"Log": [{"Exit": 0}, {"Exit": 3}]}},
    "Mounts": [{"Type": "bind", "Source": "/a"}, {"Type": "volume", "Source": "data"}],
    "Ports": {"80/tcp": [{"HostPort": "8080"}], "443/tcp": None},
    "Config": {"Labels": {"a": "b"}, "Options": {}},
}

# the right-hand sides are what Go 1.22 prints
GOLDEN = {
    # values
    "{{.Name}} {{.Size}} {{.Ratio}} {{.Up}}": "web 1500 0.25 true",
    "{{.List}} {{.Map}} {{.Empty}}": "[b a c] map[k1:1 k2:v2] []",
    "{{.State.Status}}{{.State.Health.Log}}": "running[map[Exit:0] map[Exit:3]]",
    "{{`raw \\n`}}{{\"a\\tb\\\"\\u00e9\"}}": 'raw \\na\tb"é',
    "{{1}} {{-1.5}} {{true}} {{1e3}}": "1 -1.5 true 1000",
    "{{1.23456789}} {{1e-05}}": "1.23456789 1e-05",
    "{{(index .Mounts 1).Source}}": "data",
    "{{$.Name}}": "web",
    # what a mapping of docker's does not have is no mistake of the template's
    "{{.Config.Labels.a}}{{.Config.Labels.c}}|{{if .Config.Options.x}}yes{{end}}": "b|",
    "{{with .Config}}{{.Labels.c}}{{end}}|": "|",
    # white space and comments
    "a  {{- .Name -}}  b": "awebb",
    "a {{- /* nothing */ -}} b{{/* }} */}}c": "abc",
    "{{- .Name}} {{.Name -}}": "web web",
    "{{3 -}} {{- 4}}": "34",
    # if, else if, else, with
    "{{if .Up}}yes{{else}}no{{end}}": "yes",
    "{{if .None}}a{{else if .Empty}}b{{else if .Size}}c{{else}}d{{end}}!": "c!",
    "{{if .Empty}}x{{end}}|": "|",
    "{{if eq .State.Status \"running\"}}up{{end}}": "up",
    "{{with .State}}{{.Status}} {{$.Name}}{{end}}": "running web",
    "{{with .None}}x{{else}}nothing{{end}}": "nothing",
    "{{with $x := .Name}}{{$x}}{{.}}{{end}}": "webweb",
    "{{if $x := .Size}}{{$x}} {{.Name}}{{end}}": "1500 web",
    # range
    "{{range .List}}{{.}},{{end}}": "b,a,c,",
    "{{range $i, $v := .List}}{{if $i}} {{end}}{{$i}}={{$v}}{{end}}": "0=b 1=a 2=c",
    "{{range $v := .List}}{{$v}}{{end}}": "bac",
    "{{range $k, $v := .Map}}{{$k}}:{{$v}};{{end}}": "k1:1;k2:v2;",
    "{{range .Empty}}x{{else}}none{{end}}": "none",
    "{{range .None}}x{{else}}none{{end}}": "none",
    "{{range .Mounts}}{{.Type}}:{{.Source}} {{end}}": "bind:/a volume:data ",
    "{{range $p, $c := .Ports}}{{$p}}{{range $c}}->{{.HostPort}}{{end}} {{end}}": "443/tcp 80/tcp->8080 ",
    "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Source}}{{end}}{{end}}": "data",
    # variables
    "{{$x := .Name}}{{$x}}": "web",
    "{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}": "2",
    "{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}": "21",
    "{{$s := .State}}{{$s.Status}}": "running",
    # functions
    "{{json .List}}{{json .Name}}": '["b","a","c"]"web"',
    "{{upper .Name}} {{lower \"ABC\"}} {{title \"a bc\"}}": "WEB abc A Bc",
    "{{join .List \"-\"}} {{index (split \"a,b\" \",\") 1}}": "b-a-c b",
    "{{len .List}} {{len .Name}} {{len .Map}}": "3 3 2",
    "{{index .List 1}} {{index .Map \"k1\"}} {{index .State \"Health\" \"Log\" 1 \"Exit\"}}": "a 1 3",
    "{{(index (index .Ports \"80/tcp\") 0).HostPort}}": "8080",
    "{{slice .Name 1}} {{slice .List 0 2}}": "eb [b a]",
    "{{print 1 2 \"x\" 3}} {{println .Name .Size}}": "1 2x3 web 1500\n",
    "{{printf \"%s|%5d|%-5s|%05d|%q|%t|%x|%.2f|%v|%%\" .Name 42 \"ab\" 7 \"q\" .Up 255 .Ratio .List}}":
        'web|   42|ab   |00007|"q"|true|ff|0.25|[b a c]|%',
    "{{printf \"%+d %X %.2s\" 3 255 \"abc\"}}": "+3 FF ab",
    "{{truncate .Name 2}}{{pad .Name 1 2}}|": "we web  |",
    "{{eq .Size 1500}} {{ne .Name \"x\"}} {{lt 1 2}} {{le 2 2}}": "true true true true",
    "{{gt 1 2}} {{ge 3 2}}": "false true",
    "{{eq .Name \"a\" \"web\"}}": "true",
    "{{and .Up .Name}} {{and .Up .Empty .Missing}} {{or .None \"x\"}} {{or .Up .Missing}} {{not .Up}}":
        "web [] x true false",
    # pipes
    "{{.Name | upper | printf \"<%s>\"}}": "<WEB>",
    "{{.List | len | eq 3}}": "true",
    "{{.Name | printf \"%s-%s\" \"a\"}}": "a-web",
    "{{\"x\" | or .None}}": "x",
    "{{if and (eq .Name \"web\") (gt .Size 1000)}}large{{end}}": "large",
    "{{if or (not .Up) (eq (len .List) 3)}}three{{end}}": "three",
    "{{json (index .Mounts 0).Type}}": '"bind"',
}  # fmt: skip


@pytest.mark.parametrize("template", GOLDEN)
def test_what_go_makes_of_it(template: str) -> None:
    assert Template(check(template)).render(RECORD) == GOLDEN[template]


def test_tabulators_and_line_ends_are_taken_as_docker_takes_them_from_a_shell() -> None:
    assert Template(r"{{.Name}}\t{{.Size}}\n").render(RECORD) == "web\t1500\n"


@pytest.mark.parametrize(
    ("template", "headings"),
    [
        (r"table {{.Names}}\t{{.RunningFor}}", "NAMES\tRUNNING FOR"),
        ('table {{upper .ID}} {{json .Names}} {{.ID | printf "%.5s"}}', "ID NAMES ID"),
        ("table {{.State.Status}}{{if .Up}} {{.Size}}{{end}}", "STATUS SIZE"),
        ('table {{range .Mounts}}{{.Type}}{{end}} {{join .List ","}}', "TYPE LIST"),
    ],
)
def test_a_table_has_headings(template: str, headings: str) -> None:
    assert Template(template).headings() == headings


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{.Name", "is not closed"),
        ('{{"a}}', "is not closed"),
        ("{{}}", "not understood"),
        ("{{if .Up}}x", "has no {{end}}"),
        ("{{range .List}}", "has no {{end}}"),
        ("{{end}}", "without something to end"),
        ("{{else}}", "without something to end"),
        ("{{if .Up}}a{{else}}b{{else}}c{{end}}", "has two {{else}}"),
        ("{{if}}x{{end}}", "not understood"),
        ("{{range .A}}{{else if .B}}{{end}}", "not understood"),
        ("{{uper .Name}}", "there is no function uper; did you mean upper?"),
        ("{{.Name | x}}", "there is no function x"),
        ("{{.Name | .Size}}", "only functions take arguments"),
        ("{{.Name .Size}}", "only functions take arguments"),
        ("{{$x}}", "there is no variable $x"),
        ("{{if .Up}}{{$x := 1}}{{end}}{{$x}}", "there is no variable $x"),
        ("{{$x = 1}}", "there is no variable $x"),
        ("{{(.Name}}", "a parenthesis is not closed"),
        ("{{.Name)}}", "not understood"),
        ("{{1e999}}", "too large a number"),
        (r'{{"\ud800"}}', "half a character"),
        ('{{"\\z"}}', "there is no such escape"),
        ('{{define "x"}}{{end}}', "{{define}} is not supported"),
        ('{{template "x"}}', "{{template}} is not supported"),
        ("{{range .List}}{{break}}{{end}}", "{{break}} is not supported"),
        ("{{.Name}}{{.A-b}}", "not understood"),
        ("{{a.B}}", "not understood"),
        ("{{" + "(" * 200 + "1" + ")" * 200 + "}}", "too many parentheses"),
        ("{{if 1}}" * 200 + "{{end}}" * 200, "too many blocks"),
    ],
)
def test_what_is_not_go_or_not_known_is_refused(template: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(template)
    assert said in str(caught.value) and not str(caught.value).startswith("--format")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{.Nmae}}", "there is no field .Nmae"),
        ("{{.Name.First}}", "there is no field .Name.First"),
        ("{{.Config.Labels.c.d}}", "there is no field .Config.Labels.c.d"),
        ("{{index .List 9}}", "index .*: wrong arguments"),
        ("{{index .List -1}}", "wrong arguments"),
        ('{{index .List "x"}}', "wrong arguments"),
        ("{{len 3}}", "len 3: wrong arguments"),
        ("{{join .Name 1}}", "wrong arguments"),
        ("{{eq 1}}", "wrong arguments"),
        ('{{eq 1 "1"}}', "different kinds"),
        ('{{lt 1 "x"}}', "cannot be compared"),
        ("{{eq .List .List}}", "wrong arguments"),
        ('{{printf "%d" "x"}}', "not of that kind"),
        ('{{printf "%d"}}', "there is nothing for %d"),
        ('{{printf "x" 1}}', "nothing to take"),
        ('{{printf "%p" 1}}', "not supported"),
        ("{{range .Name}}{{end}}", "which is no list"),
        ("{{slice .Name 9}}", "wrong arguments"),
        ("{{upper}}", "wrong arguments"),
    ],
)
def test_what_a_record_cannot_do_is_an_error(template: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Template(template).render(RECORD)


WORDS = (
    "{{ }} {{- -}} . $ $x .Name .List .Map .State.Status if else end range with := = | ( ) , eq len index printf "
    'json and or not "%s" "a" `r` 1 -2 0.5 true nil /* */ \\t text upper join slice'
)
PIECES = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(PIECES, max_size=20).map(" ".join) | st.text(max_size=40), VALUES, VALUES)
@example("{{range $i, $x := .List}}{{$i}}{{end}}", [1], {"a": None})
@example('{{printf "%999s" .Name}}', 1, 2)
def test_anything_is_a_template_or_a_clear_error(text: str, one: Any, other: Any) -> None:
    record = {"Name": one, "List": [one, other], "Map": {"a": one, "b": other}, "State": {"Status": other}}
    try:
        template = Template(text)
        template.headings()
        assert isinstance(template.render(record), str)
    except InvalidInput as error:
        assert error.message.startswith("--format: ")


@given(st.text().filter(lambda text: "{{" not in text and "\\" not in text and not text.startswith("table ")))
def test_text_is_itself(text: str) -> None:
    assert Template(text).render({}) == text


@given(st.text(max_size=20), st.lists(st.text(max_size=4), max_size=4))
def test_json_and_raw_texts_come_back(name: str, words: list[str]) -> None:
    import json

    record = {"Name": name, "Words": words}
    assert json.loads(Template("{{json .}}").render(record)) == record
    assert Template("{{range $i, $w := .Words}}{{$w}}{{end}}").render(record) == "".join(words)
    assert Template('{{join .Words "|"}}').render(record) == "|".join(words)
    if "`" not in name:
        assert Template("{{`" + name + "`}}").render({}) == name
