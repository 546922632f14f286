"""``stylereel demo``: the options of the shell; the steps lie in ``services.demo.run``."""

from __future__ import annotations

import os
import sys
import time

from services.console import complain
from services.shell.options import Quiet, Set

FAILED = 1


def demo(
    set_: Set = None,
    quiet: Quiet = False,
) -> int:
    """Show everything on a real clip: invert, edit, register, promote, serve, compare; leaves demo/.

    A second run redoes only what changed. The demo has a registry of its own:

        STYLEREEL_STATE=var/demo stylereel status

        STYLEREEL_STATE=var/demo stylereel serve
    """
    from services.demo.run import OUT, Demo, demo_params
    from services.demo.served import ServerFailedError

    started = time.monotonic()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        agrees = Demo(demo_params(set_ or [], os.environ), say, quiet).run()
    except ServerFailedError as error:
        complain(str(error))
        return FAILED
    print(f"{OUT}: sheet.png, metrics.md and the clips, in {time.monotonic() - started:.0f} s")
    if not agrees:
        complain(f"HTTP and the shell gave different results; see {OUT / 'metrics.md'}")
        return FAILED
    return 0
