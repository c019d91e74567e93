"""The completion scripts, run by the shell itself."""

import shlex
import subprocess

import pytest

from anchorage_pipeline.cli import main

_COMPLETE = """
source script.bash
function=$(complete -p anchorage | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=(TYPED)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$function anchorage "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["anchorage", "re"], {"report", "releases"}),
        (["anchorage", "search", "--pi"], {"--picture"}),
        (["anchorage", "data", ""], {"icons", "glyphs", "places", "shapes"}),
        (["anchorage", "releases", "ro"], {"rollback"}),
        (["anchorage", "check", "to"], {"toy.toml"}),
    ],
)
def test_bash_completes_commands_options_and_files(tmp_path, capsys, words, completions):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script.bash").write_text(capsys.readouterr().out)
    (tmp_path / "toy.toml").touch()
    command = _COMPLETE.replace("TYPED", shlex.join(words))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completions


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef anchorage")
    assert "find the gallery images" in script.lower()
