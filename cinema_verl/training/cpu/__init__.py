"""The embedded default: what verl needs to train on a machine without an accelerator.

Nothing is imported here, so that looking at one module costs the import of that module only.
"""
