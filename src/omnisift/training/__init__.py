"""How nano is made: encoders, language model, selector. Needs the ``train`` extra."""
