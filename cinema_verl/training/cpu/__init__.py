"""What verl needs to train on a machine without an accelerator.

Nothing is imported here, so that importing one module costs that module only.
"""
