"""Tasks: a person's input becomes calls of a model, and what the model says becomes an answer; a file each."""
