"""Checks before a run: of the machine (`doctor`), of configuration, model and data (`preflight`, `gallery`)."""
