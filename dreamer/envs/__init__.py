"""Environments behind one interface: groups of E environments that step together."""
