"""Answers: decoding, few-shot prompts, retrieval, and the systems built from them."""
