import os, signal
from pathlib import Path
from tests.integration.test_kill_everywhere import *
from tests.harness import proc
def test_zz(lab: Lab) -> None:
    mortals = Mortals(lab)
    for i in range(6):
        mine = mortals.lab()
        with mortals.run(mine, "look at */stat #2") as run:
            assert run.wait_exit() == -signal.SIGKILL, run.transcript()
        import time; time.sleep(0.3)
        print([ (p, proc(p,"comm"), [l for l in proc(p,"status").decode().splitlines() if l.startswith(("State","PPid"))]) for p in mine.machines])
        print(mine.gc()); print(mine.machines, mine.leftovers())
