"""CuPy twins of the CPU kernels."""
