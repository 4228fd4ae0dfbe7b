"""`lamina completion SHELL`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

SHELLS = ("bash", "zsh", "fish")

VERB = Verb(
    name="completion",
    arguments=(Argument("shell", "bash|zsh|fish", choices=SHELLS),),
    examples="""
# bash: for this shell; or for all, into /etc/bash_completion.d/lamina
eval "$(lamina completion bash)"
# zsh: in ~/.zshrc
source <(lamina completion zsh)
# fish
lamina completion fish > ~/.config/fish/completions/lamina.fish
""",
)

# `--filter status=` is followed by a value, not by a blank.
# to bash a colon ends a word, and an @ begins one, so that registry.example:5000/tool:1 would be five of them, and
# box@before two; what is answered begins behind the last colon, or with the last @
WHOLE_WORDS = r"""
_lamina_completion_of_whole_words() {
    local line=${COMP_LINE:0:COMP_POINT} before breaks=${COMP_WORDBREAKS//[^:@]/} words
    if [[ $line == *[:@]* && $line != *[\'\"\\]* ]]; then
        read -ra words <<< "$line"
        [[ $line == *[[:space:]] ]] && words+=("")
        local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
    fi
    _lamina_completion "$@"
    before=${COMP_WORDS[COMP_CWORD]}
    if [[ -n $breaks && $before == *[$breaks]* ]]; then
        before=${before%"${before##*[$breaks]}"}
        COMPREPLY=("${COMPREPLY[@]#"${before%@}"}")
    fi
    [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -F _lamina_completion_of_whole_words lamina
"""


def do(args: Arguments) -> int:
    """Print a script that makes the shell ask Lamina what may come next."""
    from click.shell_completion import get_completion_class

    from lamina.cli import output
    from lamina.cli.commands import COMPLETE, Root

    found = get_completion_class(args.shell)
    assert found is not None, "the choices of the argument are the shells that click knows"
    shell = found(Root(), {}, "lamina", COMPLETE)
    # not source(): for bash that runs bash to learn its version, which says nothing about the shell to come
    script = (shell.source_template % shell.source_vars()).strip()
    output.line(script + (f"\n{WHOLE_WORDS.rstrip()}" if args.shell == "bash" else ""))
    return 0
