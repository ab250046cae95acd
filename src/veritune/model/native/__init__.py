"""What a CPU computes by C that is compiled at first use; torch does it elsewhere."""
