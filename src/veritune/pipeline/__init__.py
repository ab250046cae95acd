"""The stages in order, each skipped when nothing it reads has changed."""
