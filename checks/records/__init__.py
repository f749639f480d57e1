"""The shapes of data that everything else is made of: rows, names in evidence, sections of parameters."""
