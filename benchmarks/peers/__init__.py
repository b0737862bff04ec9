"""Other people's DreamerV2, each in a virtual environment of its own, measured beside ours."""
