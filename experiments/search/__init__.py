"""A search for good values of configuration keys: trials that Optuna asks for, run as jobs."""
