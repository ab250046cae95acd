"""A server for runs: an OpenAI-compatible interface, and a page to compare base and adapted."""
