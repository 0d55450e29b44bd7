"""How good a policy is, said with its uncertainty: accuracy, pass@k, and whether it looks at the images."""
