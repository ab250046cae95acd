"""Questions to a trained run, one at a time, answered as they come."""
