"""The rollout engine of transformers alone, and the same generation behind an OpenAI-compatible endpoint."""
