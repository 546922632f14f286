import os
import subprocess
import sys

from services.settings import ROOT
from services.waiting import SPINS

SHOWN = "from services.waiting import wait_briefly\nprint(wait_briefly())\nimport torch"


def what_libgomp_took(program: str, **environment: str) -> tuple[str, str]:
    """What a program prints, and the line that libgomp prints of its spinning when torch loads it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean | {"OMP_DISPLAY_ENV": "verbose"} | environment,
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (line,) = {line.strip() for line in run.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
    return run.stdout.strip(), line.split("=")[1].strip(" '")


def test_torchs_threads_spin_briefly() -> None:
    assert what_libgomp_took(SHOWN) == ("True", str(SPINS))
    assert int(what_libgomp_took("import torch")[1]) > 100 * SPINS


def test_a_choice_of_the_user_stands() -> None:
    assert what_libgomp_took(SHOWN, GOMP_SPINCOUNT="77") == ("False", "77")
    assert what_libgomp_took(SHOWN, OMP_WAIT_POLICY="passive") == ("False", "0")


def test_once_torch_is_there_it_is_too_late() -> None:
    assert what_libgomp_took(f"import torch\n{SHOWN}")[0] == "False"


def test_the_shell_and_the_service_do_it_in_time() -> None:
    shell = "import sys\nfrom services.shell.cli import main\nsys.argv[1:] = ['edits']\nmain()"
    assert what_libgomp_took(shell)[1] == str(SPINS)
    assert what_libgomp_took("import services.serving.api, services.serving.app")[1] == str(SPINS)
