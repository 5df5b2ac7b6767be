"""Keys and values of the tokens a model has seen."""
