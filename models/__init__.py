"""Published programs written in `ppl`, one folder a paper, run by `python -m models list | run | fetch`."""
