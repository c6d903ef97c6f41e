"""However a program ends, within five seconds nothing of its databases is left.

Slow: programs stop for seconds, and what is to happen after five is waited for.
"""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from conftest import Place, eventually, is_open

BEGIN = """
import asyncio, atexit, os, signal, sys, threading, time
import ondemand
from ondemand import aio

def made(db):
    print(db.port, flush=True)
    return db
"""

WAYS = {
    "leaving_the_block": ("with ondemand.pg_snapshot('production') as db: made(db)", 0),
    "an_exception": ("with ondemand.pg_snapshot('production') as db: made(db); raise KeyError", 1),
    "sys_exit": ("with ondemand.pg_snapshot('production') as db: made(db); sys.exit(7)", 7),
    "the_end_of_the_interpreter": ("db = made(ondemand.pg_snapshot('production'))", 0),
    "the_end_with_another_thread": (
        "db = made(ondemand.pg_snapshot('production')); threading.Thread(target=time.sleep, args=(0.1,)).start()",
        0,
    ),
    "os_exit": ("db = made(ondemand.pg_snapshot('production')); os._exit(3)", 3),
    "sigkill": ("db = made(ondemand.pg_snapshot('production')); os.kill(os.getpid(), signal.SIGKILL)", -9),
    "sigterm": ("db = made(ondemand.pg_snapshot('production')); os.kill(os.getpid(), signal.SIGTERM)", -15),
    "abort": ("db = made(ondemand.pg_snapshot('production')); os.abort()", -6),
    "another_program": (
        "db = made(ondemand.pg_snapshot('production')); os.execv('/bin/sh', ['sh', '-c', 'exit 4'])",
        4,
    ),
    "a_cancelled_task": (
        """
async def use(running):
    async with aio.pg_snapshot('production') as db:
        made(db)
        running.set()
        await asyncio.sleep(60)

async def main():
    running = asyncio.Event()
    task = asyncio.create_task(use(running))
    await running.wait()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        os._exit(5)

asyncio.run(main())
""",
        5,
    ),
    "a_task_that_times_out": (
        """
async def main():
    db = made(await aio.pg_snapshot('production'))
    await asyncio.wait_for(asyncio.sleep(60), 0.05)

asyncio.run(main())
""",
        1,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_after(place: Place, way: str) -> None:
    script, status = WAYS[way]
    # What is bound to the module would be closed by nobody.
    program = place.run(BEGIN + script)
    out, err = program.communicate(timeout=60)
    ended = time.monotonic()
    assert program.returncode == status, err
    port = int(out)
    eventually(lambda: not is_open(port) and place.is_clean(), "something is left", seconds=5)
    assert time.monotonic() - ended < 20


def test_nothing_is_left_after_ctrl_c(place: Place) -> None:
    program = place.run(BEGIN + "with ondemand.pg_snapshot('production') as db: made(db); time.sleep(60)")
    assert program.stdout is not None
    port = int(program.stdout.readline())
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT and "KeyboardInterrupt" in err
    assert not is_open(port) and place.is_clean()


def test_ctrl_c_ends_a_create_at_once(place: Place) -> None:
    # Beside one that lives, it makes others one after the other, whenever the signal comes.
    script = """
print('begun', flush=True)
ondemand.pg_snapshot('production', settings={'shared_preload_libraries': 'auto_explain'}, name='slow')
for number in range(10_000):
    with ondemand.pg_snapshot('production'): pass
"""
    program = place.run(BEGIN + script)
    assert program.stdout is not None
    program.stdout.readline()
    eventually(lambda: len(place.volumes()) > 1, "no database is being created")
    program.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, err = program.communicate(timeout=60)
    # A create takes a minute to be given up, and the loop many.
    assert time.monotonic() - sent < 20, "it took too long"
    assert program.returncode == -signal.SIGINT and "KeyboardInterrupt" in err
    eventually(place.is_clean, "something is left", seconds=5)


def test_nothing_is_left_by_a_program_that_goes_on_after_ctrl_c(place: Place) -> None:
    # At many moments of a create and of a delete. What was begun is made and then deleted, so all of it takes a while.
    script = """
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupted = 0
ondemand.pg_snapshot('production').close()
for milliseconds in range(1, 200, 12):
    try:
        signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        ondemand.pg_snapshot('production').close()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
print(interrupted, flush=True)
time.sleep(60)
"""
    program = place.run(BEGIN + script)
    assert program.stdout is not None
    assert int(program.stdout.readline()) > 1
    eventually(place.is_clean, "something is left")
    assert program.poll() is None


def test_a_child_does_not_keep_its_parents_databases(place: Place) -> None:
    script = """
db = made(ondemand.pg_snapshot('production'))
child = os.fork()
if child == 0:
    os.close(1); os.close(2)
    time.sleep(30)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    program = place.run(BEGIN + script)
    out, _ = program.communicate(timeout=60)
    port, child = (int(line) for line in out.split())
    try:
        eventually(lambda: not is_open(port) and place.is_clean(), "the child holds it", seconds=5)
    finally:
        import os

        os.kill(child, signal.SIGKILL)


def test_a_child_leaves_its_parents_databases_and_has_its_own(place: Place) -> None:
    script = """
db = made(ondemand.pg_snapshot('production'))
child = os.fork()
if child == 0:
    with ondemand.pg_snapshot('production') as own:
        assert own.port != db.port
    db.close()
    db.__exit__(None, None, None)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
time.sleep(2)
assert ondemand.Ondemand(db._connection).databases.get(db.id).status == 'Running'
db.close()
"""
    program = place.run(BEGIN + script)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err


def test_multiprocessing_works(place: Place) -> None:
    script = """
import multiprocessing

def work(number):
    with ondemand.pg_snapshot('production') as db:
        return db.port

if __name__ == '__main__':
    with ondemand.pg_snapshot('production') as mine:
        with multiprocessing.get_context('fork').Pool(4) as pool:
            ports = pool.map(work, range(8))
        assert mine.port not in ports
"""
    program = place.run(BEGIN + script)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err


def test_nothing_of_a_program_that_stops_for_a_while_is_taken(place: Place) -> None:
    program = place.run(BEGIN + "db = made(ondemand.pg_snapshot('production')); sys.stdin.read(1); db.reset(); print(db.port)")
    assert program.stdout is not None
    port = int(program.stdout.readline())
    program.send_signal(signal.SIGSTOP)
    # Long enough for the heartbeats of a lease to be missed, had they to be answered.
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(4)
    assert is_open(port) and program.poll() is None
    program.send_signal(signal.SIGCONT)
    out, err = program.communicate("x", timeout=60)
    assert program.returncode == 0, err
    assert int(out) == port
