"""Benchmarks: every command here measures, prints a table and writes JSON."""
