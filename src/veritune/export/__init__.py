"""A trained run in the forms that other programs load, each checked before it gets its name."""
