"""Many configurations of one recipe, trained together; the best on validation becomes the run."""
