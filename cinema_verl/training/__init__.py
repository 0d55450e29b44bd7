"""All that runs inside verl: the trainer and its estimator, dynamic sampling, agent loop, workers, settings."""
