"""What a run left on disk: where it lies, its metrics and its rollouts, read in one way for everybody."""
