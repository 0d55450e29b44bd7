"""What runs inside verl: trainer, validation, estimators, dynamic sampling, agent loop, workers, settings."""
