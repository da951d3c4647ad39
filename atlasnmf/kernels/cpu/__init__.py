"""Numba kernels: serial, without the interpreter lock; threads come from outside."""
