"""`ModelHandle`: a model whose weights are loaded once they are needed."""
