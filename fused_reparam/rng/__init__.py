"""Random numbers as pure functions of a key: keys, the noise stream, and standard base noise."""
