"""The compiler that CuPy calls, called alone: it needs neither CuPy nor a device."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

#: What CuPy's compiler adds to the options that a module asks for.
CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")


def library():
    """Return NVRTC of the wheels ``nvidia-cuda-nvrtc*``, or None."""
    there = find_spec("nvidia")
    folders = [] if there is None else map(Path, there.submodule_search_locations)
    found = [path for folder in folders for path in sorted(folder.rglob("libnvrtc.so.*"))]
    return ctypes.CDLL(str(found[-1])) if found else None


def compiled(nvrtc, source, options):
    """Return what the compiler says, all of it, and the PTX (empty where it failed)."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    given = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    texts = []
    for name in ("ProgramLog",) if failed else ("ProgramLog", "PTX"):
        getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{name}")(program, text)
        texts.append(text.value.decode())
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed or texts[0], f"NVRTC ended with error {failed}"
    return texts[0], "" if failed else texts[1]
