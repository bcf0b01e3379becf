"""Answers that share no code with what they check: closed forms and dense linear algebra."""
