"""A stand-in for CuPy on machines without a device: numpy arrays, CUDA C compiled by g++ and run in threads.

It is strict where CuPy is: host arrays do not mix with device arrays, and a kernel's arguments must be of
the very types that it declares (CuPy does not check those).
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
import types

import numpy as np

#: Threads of a block on the host, whatever the launch asks for; kernels must not count on their number.
N_THREADS = 4

PRELUDE = r"""
#include <barrier>
#include <cmath>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>
struct Dim { unsigned x, y, z; };
static thread_local Dim threadIdx{0, 0, 0}, blockIdx{0, 0, 0};
static Dim blockDim{1, 1, 1}, gridDim{1, 1, 1};
static std::barrier<>* gate;
#define __global__
#define __device__ static
#define __shared__ static
#define __syncthreads() gate->arrive_and_wait()

template <class T> struct Code;
template <> struct Code<long long> { static constexpr char c = 'q'; };
template <> struct Code<int> { static constexpr char c = 'i'; };
template <> struct Code<float> { static constexpr char c = 'f'; };
template <> struct Code<double> { static constexpr char c = 'd'; };
template <> struct Code<char> { static constexpr char c = 'b'; };
template <class T> struct Code<const T> : Code<T> {};
template <class A> struct Spell { static void to(std::string& s) { s += Code<A>::c; } };
template <class T> struct Spell<T*> { static void to(std::string& s) { s += '*'; s += Code<T>::c; } };

template <class... A> const char* types_of(void (*)(A...)) {
    static std::string text;
    text.clear();
    (Spell<A>::to(text), ...);
    return text.c_str();
}
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}
template <class... A> void run(void (*kernel)(A...), unsigned grid, unsigned block, void** arguments) {
    std::barrier<> meeting(block);
    gate = &meeting;
    blockDim.x = block;
    gridDim.x = grid;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < block; ++t)
        threads.emplace_back([=] {
            threadIdx.x = t;
            for (unsigned b = 0; b < grid; ++b) {
                blockIdx.x = b;
                call(kernel, arguments, std::index_sequence_for<A...>{});
                gate->arrive_and_wait();
            }
        });
    for (auto& thread : threads) thread.join();
}
"""
EXPORT = """
extern "C" const char* types_{name}() {{ return types_of({name}); }}
extern "C" void run_{name}(unsigned grid, unsigned block, void** arguments) {{
    run({name}, grid, block, arguments);
}}
"""


def kernel_names(source):
    return re.findall(r'extern "C" __global__ void (\w+)', source)


class DeviceArray(np.ndarray):
    """A numpy array that refuses to work with arrays that are not on the "device"."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        for value in (*inputs, *kwargs.get("out", ())):
            assert not is_host_array(value), f"{ufunc.__name__}: a host array meets a device array"
        plain = [np.asarray(value) if isinstance(value, DeviceArray) else value for value in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(np.asarray(value) for value in kwargs["out"])
        return to_device(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} is given a device array: take cupy's")

    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__

    def get(self):
        return np.array(to_plain(self))

    def argsort(self, axis=-1, kind=None):
        refuse_other_sorts(kind)
        return to_device(to_plain(self).argsort(axis=axis, kind="stable"))

    def sort(self, axis=-1, kind=None):
        refuse_other_sorts(kind)
        to_plain(self).sort(axis=axis, kind="stable")

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return to_device(to_plain(self).sum(axis=axis, dtype=dtype, keepdims=keepdims))

    def max(self, axis=None, out=None, keepdims=False):
        return to_device(to_plain(self).max(axis=axis, keepdims=keepdims))

    def min(self, axis=None, out=None, keepdims=False):
        return to_device(to_plain(self).min(axis=axis, keepdims=keepdims))

    def __getitem__(self, key):
        self._check_key(key)
        return to_device(super().__getitem__(key))

    def __setitem__(self, key, value):
        self._check_key(key)
        assert not is_host_array(value), "a host array is written into a device array"
        super().__setitem__(key, to_plain(value))

    def _check_key(self, key):
        for part in key if isinstance(key, tuple) else (key,):
            assert not is_host_array(part), "a host array indexes a device array"


def is_host_array(value):
    return isinstance(value, np.ndarray) and not isinstance(value, DeviceArray) and value.ndim > 0


def to_device(value):
    """Give what is computed the form it has there; one number is an array without dimensions."""
    if isinstance(value, tuple):
        return tuple(to_device(part) for part in value)
    return np.asarray(value).view(DeviceArray) if isinstance(value, np.ndarray | np.generic) else value


def to_plain(value):
    if isinstance(value, list | tuple):
        return type(value)(to_plain(part) for part in value)
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def refuse_other_sorts(kind):
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


class HostCupy(types.ModuleType):
    def __init__(self, folder):
        super().__init__("cupy")
        self._folder = folder
        self._libraries = {}
        self.n_released = 0
        runtime = types.SimpleNamespace(memGetInfo=lambda: (2**30, 2**31))
        self.cuda = types.SimpleNamespace(runtime=runtime)

    def get_default_memory_pool(self):
        def free_all_blocks():
            self.n_released += 1

        return types.SimpleNamespace(free_all_blocks=free_all_blocks)

    def __getattr__(self, name):
        if name.startswith("__"):  # those of a module, which others look at
            raise AttributeError(name)
        function = getattr(np, name)

        def on_device(*args, **kwargs):
            for value in (*args, *kwargs.values()):
                for part in value if isinstance(value, list | tuple) else [value]:
                    assert not is_host_array(part), f"cupy.{name} is given a host array"
            plain = {key: to_plain(value) for key, value in kwargs.items()}
            return to_device(function(*map(to_plain, args), **plain))

        return on_device

    def bincount(self, values, **options):
        raise NotImplementedError("CuPy's refuses what is empty, and adds weights in any order")

    def argsort(self, values, axis=-1, kind=None):
        return values.argsort(axis, kind)

    def sort(self, values, axis=-1, kind=None):
        refuse_other_sorts(kind)
        return to_device(np.sort(to_plain(values), axis=axis, kind="stable"))

    def searchsorted(self, sorted_values, values, side="left", sorter=None):
        assert all(isinstance(given, DeviceArray) for given in (sorted_values, values))
        return to_device(np.searchsorted(to_plain(sorted_values), to_plain(values), side=side))

    def asarray(self, value, dtype=None):
        there = isinstance(value, DeviceArray)  # only then no copy is made
        return np.array(value, dtype=dtype, copy=None if there else True).view(DeviceArray)

    def asnumpy(self, value):
        return np.array(value).view(np.ndarray)

    def RawModule(self, *, code, options):  # CuPy's name
        key = hashlib.sha256("\0".join([code, *options]).encode()).hexdigest()[:16]
        if key not in self._libraries:
            self._libraries[key] = self._compile(key, code, options)
        return HostModule(self._libraries[key])

    def _compile(self, key, code, options):
        source, library = self._folder / f"{key}.cpp", self._folder / f"{key}.so"
        exports = "".join(EXPORT.format(name=name) for name in kernel_names(code))
        source.write_text(PRELUDE + code + exports)
        defines = [option for option in options if option.startswith("-D")]
        flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread", "-w", *defines]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


class HostModule:
    def __init__(self, library):
        self.library = library

    def get_function(self, name):
        types_of = getattr(self.library, f"types_{name}")
        types_of.restype = ctypes.c_char_p
        declared = re.findall(r"\*?\w", types_of().decode())

        def launch(grid, block, arguments):
            given = [spelling(value) for value in arguments]
            assert given == declared, f"{name}: {given} passed, {declared} declared"
            assert 0 < grid[0] < 2**31
            assert block[0] & (block[0] - 1) == 0
            held = [storage(value) for value in arguments]
            pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(item) for item in held))
            getattr(self.library, f"run_{name}")(grid[0], N_THREADS, pointers)

        return launch


ELEMENTS = {"int64": "q", "int32": "i", "float32": "f", "float64": "d", "int8": "b"}


def spelling(value):
    if isinstance(value, np.ndarray):
        assert isinstance(value, DeviceArray), "a host array is passed to a kernel"
        assert value.flags.c_contiguous
        return (
            "*" + {"int64": "q", "int32": "i", "float32": "f", "float64": "d", "int8": "b"}[value.dtype.name]
        )
    return {np.int64: "q", np.float64: "d"}[type(value)]


def storage(value):
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_longlong(int(value)) if isinstance(value, np.int64) else ctypes.c_double(float(value))
