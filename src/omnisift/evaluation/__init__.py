"""How answers are judged: intervals, paired tests, and the run over the generated world."""
