"""Pure functions of a Case: text, JSON, plots and the other formats."""
