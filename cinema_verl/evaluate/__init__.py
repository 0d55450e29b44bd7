"""Evaluation of a policy: accuracy and pass@k with intervals, and whether the policy uses the images."""
