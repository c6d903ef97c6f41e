#!/usr/bin/env python3
"""Prints what the phases of a test run took, its slowest tests, and how far it is from its budget.

usage: report.py DIRECTORY BEGIN MACHINE_TIME

DIRECTORY holds phases.tsv and, as far as tests ran, the reports of the test runners (*.xml) and those of the run before (before/*.xml). BEGIN is when
the run began and MACHINE_TIME the processor time of the machine until then, both in milliseconds, as tests/setup/phases.sh has them.
"""

from __future__ import annotations

import os
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, Set

BUDGET_MINUTES = 15
SHOWN = 30
# A test that takes longer says why.
SLOW_SECONDS = 5.0
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("ondemand-*/src", "ondemand-*/tests", "tests/tests", "tests/sample")
# "// Slow: …" in the first lines of a test, or "# Slow: …" in Python's; "//! Slow: …", or a line of Python's docstring, speaks for all tests of a module.
EXPLAINED = re.compile(r"(?:fn|def) (\w+)\([^{:]*(?:\{|:)\n(?:[^\n]*\n){0,3}?\s*(?://|#) Slow: ")
EXPLAINED_MODULE = re.compile(r'(?://![^\n]*\n)*//! Slow: |"""(?:(?!""")[^\n]*\n)*Slow: ')


def clock(milliseconds: float) -> str:
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}:{seconds:02}"


def machine_time() -> int:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[i] for i in (0, 1, 2, 5, 6)) * 1000 // os.sysconf("SC_CLK_TCK")


def tests(directory: Path) -> Dict[str, float]:
    """The seconds that each test took."""
    found: Dict[str, float] = {}
    for file in sorted(directory.glob("*.xml")):
        for case in ElementTree.parse(file).iter("testcase"):
            name = f"{case.get('classname', '')} {case.get('name', '')}"
            found[name] = found.get(name, 0.0) + float(case.get("time", "0"))
    return found


def explained() -> Set[str]:
    """The names of the functions, and of the modules, that say why they are slow."""
    names: Set[str] = set()
    for pattern in SOURCES:
        for directory in ROOT.glob(pattern):
            for file in [*directory.rglob("*.rs"), *directory.rglob("*.py")]:
                text = file.read_text()
                names.update(EXPLAINED.findall(text))
                if EXPLAINED_MODULE.match(text):
                    names.add(file.parent.name if file.stem in ("mod", "main") else file.stem)
    return names


def parts(name: str) -> Set[str]:
    """The function of a test and the modules that it is in."""
    return set(re.split(r"::|\s|\.", name.split("[")[0]))


def show_phases(directory: Path, begin: int) -> None:
    rows = [line.split("\t") for line in (directory / "phases.tsv").read_text().splitlines()]
    print(f"{'phase':<24}{'begins':>8}{'takes':>8}{'CPU':>8}   (of its own processes: engines and servers are in the sum)")
    for name, begins, ends, used in sorted(rows, key=lambda row: int(row[1])):
        print(f"{name:<24}{clock(int(begins) - begin):>8}{clock(int(ends) - int(begins)):>8}{clock(int(used)):>8}")


def show_tests(directory: Path) -> None:
    now, before, reasons = tests(directory), tests(directory / "before"), explained()
    if not now:
        return
    print(f"\n{'seconds':>8}{'before':>8}   the {min(SHOWN, len(now))} slowest of {len(now)} tests, which took {sum(now.values()):.0f} s together")
    unexplained: List[str] = []
    for place, (name, seconds) in enumerate(sorted(now.items(), key=lambda item: -item[1])):
        if seconds > SLOW_SECONDS and not parts(name) & reasons:
            unexplained.append(name)
        if place < SHOWN:
            earlier = f"{before[name]:.1f}" if name in before else "-"
            print(f"{seconds:>8.1f}{earlier:>8}   {name}")
    if unexplained:
        print(f"\n{len(unexplained)} took more than {SLOW_SECONDS:.0f} s and do not say why in a comment `Slow: …` in their first lines:")
        for name in unexplained:
            print(f"  {name}")


def main() -> None:
    directory, begin, machine = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print("\n== what took how long")
    show_phases(directory, begin)
    show_tests(directory)
    took, used = time.time() * 1000 - begin, machine_time() - machine
    left = BUDGET_MINUTES * 60_000 - took
    distance = f"{clock(left)} below" if left >= 0 else f"{clock(-left)} ABOVE"
    print(f"\nThe run took {clock(took)} minutes, {distance} its budget of {BUDGET_MINUTES}, and {clock(used)} minutes of this machine's processors.")


if __name__ == "__main__":
    main()
