"""Arithmetic on plain arrays, the same names on CPU and GPU."""
