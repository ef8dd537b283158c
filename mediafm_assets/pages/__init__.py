"""The lake for people: a catalogue to look through, search, the commands, and one small web application."""
