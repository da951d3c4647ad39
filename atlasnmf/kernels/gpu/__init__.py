"""CuPy twins of the CPU kernels; ``HOST_ONLY`` of the dispatcher says which have none, and why."""
