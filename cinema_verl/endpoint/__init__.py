"""One client of OpenAI-compatible endpoints, with the ledger of its calls, their limits and what they cost."""
