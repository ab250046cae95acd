"""From raw question/answer pairs, or a code base, to clean, clustered, split examples.

Start reading at ``prepare``; nothing here imports a model library.
"""
