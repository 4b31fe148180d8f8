"""The parts of nano's training: encoders, language model, selector. Needs the ``train`` extra."""
