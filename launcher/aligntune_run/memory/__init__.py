"""How much memory a training takes. Pure: from the request and the facts of its model."""
