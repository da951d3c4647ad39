"""Small, repeatable benchmarks for asv: one class a kernel, time and peak memory."""
