"""The method on handwritten digits, small enough for a CPU: data, a tiny model, a shipped policy, stub endpoints."""
