"""Configuration keys: declared in annotations, validated, and documented by `--help`."""
