"""How fast it is: every command here measures, prints a table and writes JSON."""
