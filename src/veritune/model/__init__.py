"""Models: references, loading, prompts, adapters."""
