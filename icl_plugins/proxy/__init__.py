"""Everything that runs the proxy: the small local model whose gradients choose."""
