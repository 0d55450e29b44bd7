"""Supervised fine-tuning by verl's SFT trainer, with the guarantees that a run of days needs."""
