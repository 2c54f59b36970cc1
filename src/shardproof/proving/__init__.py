"""Reference and candidate -> recorded tensors -> compared -> findings -> causes."""
