#!/usr/bin/env python3
"""Copies a position-independent program as one that has a fixed address, so that the loader has nothing to relocate.

usage: place.py PROGRAM COPY

Debian's dockerd is position-independent and has 244,000 relocations: 80 ms of processor time whenever it starts. It starts itself about ten times
for a container of a swarm, to work in network namespaces. A copy at a fixed address starts in half of that. This does what the linker does
without -pie: it adds the address to all that the loader would add it to.

The exit status is 3 where a program is not such a one: another machine than x86-64, or no position-independent program.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NoReturn

# Where the linker places programs that have a fixed address.
BASE = 0x400000

ET_EXEC, ET_DYN, EM_X86_64 = 2, 3, 62
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
R_JUMP_SLOT, R_RELATIVE, R_IRELATIVE = 7, 8, 37
STT_TLS = 6
SHN_ABS = 0xFFF1
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23
DT_RELR = 36
DT_GNU_HASH, DT_FLAGS_1, DT_RELACOUNT = 0x6FFFFEF5, 0x6FFFFFFB, 0x6FFFFFF9
DF_1_PIE = 0x08000000
# Entries of the dynamic section that are addresses: PLTGOT, HASH, STRTAB, SYMTAB, RELA, INIT, FINI, JMPREL, INIT_ARRAY, FINI_ARRAY,
# PREINIT_ARRAY, GNU_HASH, VERSYM, VERDEF, VERNEED.
ADDRESSES = {3, 4, DT_STRTAB, DT_SYMTAB, DT_RELA, 12, 13, DT_JMPREL, 25, 26, 32, DT_GNU_HASH, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE}


def refuse(reason: str) -> NoReturn:
    print(f"place.py: {reason}", file=sys.stderr)
    sys.exit(3)


class Program:
    """The bytes of a program, by address."""

    def __init__(self, content: bytes) -> None:
        self.data = bytearray(content)
        if content[:6] != b"\x7fELF\x02\x01":
            refuse("no program of 64 bits")
        kind, machine = struct.unpack_from("<HH", content, 16)
        if kind != ET_DYN or machine != EM_X86_64:
            refuse("it is not position-independent, or for another machine than x86-64")
        table, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
        self.headers = [table + i * size for i in range(count)]
        # (address, place in the file, size in the file) of what is loaded.
        self.loaded = [(self.word(h + 16), self.word(h + 8), self.word(h + 32)) for h in self.headers if self.half(h) == PT_LOAD]
        dynamic = next((h for h in self.headers if self.half(h) == PT_DYNAMIC), None)
        if dynamic is None:
            refuse("it has no dynamic section")
        self.dynamic = range(self.word(dynamic + 8), self.word(dynamic + 8) + self.word(dynamic + 32), 16)
        self.tags = {self.word(entry): self.word(entry + 8) for entry in self.dynamic if self.word(entry)}

    def half(self, place: int) -> int:
        return int(struct.unpack_from("<I", self.data, place)[0])

    def word(self, place: int) -> int:
        return int(struct.unpack_from("<Q", self.data, place)[0])

    def put(self, place: int, value: int) -> None:
        struct.pack_into("<Q", self.data, place, value & 0xFFFFFFFFFFFFFFFF)

    def add(self, place: int) -> None:
        self.put(place, self.word(place) + BASE)

    def find(self, address: int) -> int:
        """Where in the file an address is."""
        for start, place, size in self.loaded:
            if start <= address < start + size:
                return place + address - start
        refuse(f"nothing is at {address:#x}")


def place_relocations(program: Program, table: int, size: int) -> int:
    """Applies what depends on the address alone, and keeps the rest. Returns the size of the rest."""
    begin = program.find(table)
    kept = bytearray()
    for offset, info, addend in struct.iter_unpack("<QQq", bytes(program.data[begin : begin + size])):
        kind = info & 0xFFFFFFFF
        if kind == R_RELATIVE:
            program.put(program.find(offset), addend + BASE)
            continue
        if kind == R_IRELATIVE:
            addend += BASE
        if kind == R_JUMP_SLOT and program.word(program.find(offset)):
            program.add(program.find(offset))
        kept += struct.pack("<QQq", offset + BASE, info, addend)
    program.data[begin : begin + size] = kept.ljust(size, b"\0")
    return len(kept)


def place(program: Program) -> None:
    tags = program.tags
    if DT_RELR in tags or DT_RELA not in tags:
        refuse("its relocations are of another kind")
    # Their number is in none of the tables; the linker writes their names next.
    for symbol in range(program.find(tags[DT_SYMTAB]), program.find(tags[DT_STRTAB]), 24):
        section = struct.unpack_from("<H", program.data, symbol + 6)[0]
        if section not in (0, SHN_ABS) and program.data[symbol + 4] & 0xF != STT_TLS:
            program.add(symbol + 8)
    rest = place_relocations(program, tags[DT_RELA], tags[DT_RELASZ])
    if DT_JMPREL in tags:
        place_relocations(program, tags[DT_JMPREL], tags[DT_PLTRELSZ])
    for entry in program.dynamic:
        tag = program.word(entry)
        if tag in ADDRESSES:
            program.add(entry + 8)
        elif tag == DT_RELASZ:
            program.put(entry + 8, rest)
        elif tag == DT_RELACOUNT:
            program.put(entry + 8, 0)
        elif tag == DT_FLAGS_1:
            program.put(entry + 8, program.word(entry + 8) & ~DF_1_PIE)
    for header in program.headers:
        if program.half(header) != PT_GNU_STACK:
            program.add(header + 16)
            program.add(header + 24)
    struct.pack_into("<H", program.data, 16, ET_EXEC)
    program.add(24)
    # The sections have other addresses now, and nobody asks for them.
    program.put(40, 0)
    struct.pack_into("<HHH", program.data, 58, 0, 0, 0)


def main() -> None:
    program = Program(Path(sys.argv[1]).read_bytes())
    place(program)
    copy = Path(sys.argv[2])
    copy.write_bytes(program.data)
    copy.chmod(0o755)


if __name__ == "__main__":
    main()
