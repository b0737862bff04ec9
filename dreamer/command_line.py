"""What a person typed wrongly, said on one line.

The doors (`train.py`, `dreamer/evaluate.py`) use it. It knows Hydra's sentences, but not Hydra.
"""

import re

# Keys of earlier versions, and what to write instead.
REPLACED = {
    "compile": "`compile` was replaced by `kernels`: kernels=auto computes faster, kernels=plain "
    "runs the models as they are written, and nothing is compiled."
}


def explain(error: BaseException) -> str:
    """Shorten what Hydra says of a command line to one line."""
    text = str(error).split("Config search path:")[0]
    for key, remedy in REPLACED.items():
        if re.search(rf"override '{key}'", text):
            return remedy
    text = re.sub(r"To append to your .*", "`--cfg job` shows every key.", text)
    return " ".join(text.split())
