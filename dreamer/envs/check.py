"""`python -m dreamer.envs.check`, the earlier name of `python -m dreamer.check`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("dreamer.check", run_name="__main__")
