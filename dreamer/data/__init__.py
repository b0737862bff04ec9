"""Stored experience of this and other programs: episode files, Minari datasets, run folders."""
