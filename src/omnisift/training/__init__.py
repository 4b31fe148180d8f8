"""Training of selectors and models on your own clips. Needs the ``train`` extra."""
