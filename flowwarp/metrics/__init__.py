"""Numbers that judge a result; nothing is printed here."""
