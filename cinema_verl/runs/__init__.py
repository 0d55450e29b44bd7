"""What a run left on disk: where it is, and the one reader of its metrics and rollouts."""
