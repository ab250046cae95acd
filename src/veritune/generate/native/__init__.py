"""A decoder's forward pass in C, for CPUs with AVX-512, compiled once where a compiler is found."""
