"""Bytes: reading them from the user, dividing them, refusing before work when they do not suffice."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from atlasnmf.errors import BadOption

__all__ = ["Budget", "format_bytes", "give_back", "parse_bytes", "peak_bytes"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{k}I": 1 << (10 * i) for i, k in enumerate("KMGT", start=1)}

#: What the interpreter, torch and the codecs hold before the first array (measured: 450-550 MB).
INTERPRETER_BYTES = 600 * 10**6


def parse_bytes(text: str | int) -> int:
    """Read a number of bytes such as ``4GB``, ``512MiB`` or ``2000000000``.

    Raises
    ------
    BadOption
        The text is not a positive number of bytes.

    Examples
    --------
    >>> parse_bytes("4GB"), parse_bytes("512 MiB"), parse_bytes(1000)
    (4000000000, 536870912, 1000)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", str(text).upper())
    if not match or match[2] not in _UNITS:
        raise BadOption(f"cannot read {text!r} as a number of bytes; write it like 4GB or 512MiB")
    n_bytes = int(float(match[1]) * _UNITS[match[2]])
    if n_bytes <= 0:
        raise BadOption(f"a size must be positive, got {text!r}; write it like 4GB")
    return n_bytes


def format_bytes(n_bytes: float) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> format_bytes(5_100_000_000), format_bytes(20_000)
    ('5.1 GB', '20.0 kB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{int(n_bytes)} bytes"


@dataclass(frozen=True)
class Budget:
    """How much memory the whole process may hold, interpreter included.

    Parameters
    ----------
    total_bytes
        The most the process may hold.

    Examples
    --------
    >>> Budget.of("4GB").array_bytes
    3400000000
    """

    total_bytes: int

    @classmethod
    def of(cls, text: str | int | None) -> Budget:
        """Read a budget; ``None`` takes half of the machine's available memory."""
        if text is None:
            import psutil

            return cls(max(int(psutil.virtual_memory().available // 2), 2 * INTERPRETER_BYTES))
        return cls(parse_bytes(text))

    @property
    def array_bytes(self) -> int:
        """What is left for arrays."""
        return max(self.total_bytes - INTERPRETER_BYTES, 0)

    def require(self, n_bytes: int, what: str, mend: str) -> None:
        """Refuse before working when ``what`` does not fit.

        Raises
        ------
        BadOption
            Saying what is needed, what there is, and the mend.
        """
        if n_bytes > self.array_bytes:
            needed = n_bytes + INTERPRETER_BYTES
            # rounded up, so that the size named is one that works
            step = 10**8 if needed >= 10**9 else 10**6
            smallest = format_bytes(-(-needed // step) * step)
            raise BadOption(
                f"{what} needs {format_bytes(n_bytes)} beside the interpreter's "
                f"{format_bytes(INTERPRETER_BYTES)} but the budget is {format_bytes(self.total_bytes)}; "
                f"{mend} or --memory-budget {smallest.replace(' ', '')}"
            )


def peak_bytes() -> int:
    """Return the most memory this process has held so far.

    Linux keeps the figure of ``getrusage`` across ``exec``: a child of a large process would report its
    parent's, so the kernel's own record of this program is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(peak[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def give_back() -> None:
    """Hand memory that was freed in small pieces back to the system.

    The C library keeps it, apart for every thread that took some, so that a process whose threads come and go
    grows by what each of them ever held. About 0.1 s a gigabyte; nothing where the library has no such call.

    Examples
    --------
    >>> give_back()
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
