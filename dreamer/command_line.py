"""What a person typed wrongly, said on one line.

The doors (`train.py`, `dreamer/evaluate.py`) use it. It knows Hydra's sentences, but not Hydra.
"""

import re


def explain(error: BaseException) -> str:
    """Shorten what Hydra says of a command line to one line."""
    text = str(error).split("Config search path:")[0]
    text = re.sub(r"To append to your .*", "`--cfg job` shows every key.", text)
    return " ".join(text.split())
